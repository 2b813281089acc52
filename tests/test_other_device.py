"""What would stop on a GPU, found without one: all of it runs on the meta device.

A meta tensor refuses to be mixed with one of the CPU, as a GPU's does, and has no numbers: whatever waits for one of
them fails here too. What comes back to the CPU in the end (pictures, features) is left out.
"""

import importlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidm import config
from vidm.diffusion.samplers import METHODS
from vidm.diffusion.schedule import Schedule
from vidm.metrics.i3d import I3D
from vidm.metrics.inception import Inception, frames_to_input
from vidm.metrics.protocol import PROTOCOLS, find, preprocess
from vidm.models import trained
from vidm.models.norm import GroupNorm
from vidm.models.spynet import SpyNet
from vidm.sampling.conditions import Residuals
from vidm.sampling.noise import VideoNoise
from vidm.sampling.rollout import Batch, Rollout, as_images
from vidm.training.content import content_loss
from vidm.training.motion import motion_loss

ROOT = Path(__file__).parents[1]
PARAMS = config.load(ROOT / "params.yaml")
META = torch.device("meta")
SIZE, CLASSES = 32, 5
# Every loss, prediction, residual, norm and SpyNet, at the laptop's width.
EXPERIMENTS = ["sky", "sky-paper", "sky64", "sky-official", "sky-residual-output", "sky-without-posgn"]


class Copies(TorchDispatchMode):
    """Operations that bring a tensor from the CPU to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        came, went = (
            {x.device.type for x in tree_leaves(v) if isinstance(x, torch.Tensor)} for v in ((args, kwargs), out)
        )
        if "cpu" in came and "meta" in went:
            self.seen.append(str(operation))
        return out


def network(part: str, e: config.Experiment, classes: int = 0) -> torch.nn.Module:
    with META:
        return trained.build(part, getattr(e, part), SIZE, e.frames, classes).to(memory_format=torch.channels_last)


def batch_of(e: config.Experiment, part: str, classes: int) -> dict[str, torch.Tensor]:
    images = ("frame", "noise", "first", "previous", "target", "previous_noise")
    batch = {name: torch.zeros(2, 3, SIZE, SIZE) for name in images} | {"level": torch.zeros(2)}
    batch |= {"t": torch.tensor([3, 9]), "n": torch.tensor([1, 2])} | ({"cls": torch.tensor([0, 1])} if classes else {})
    batch["history"] = torch.zeros(2, e.motion.velocity_frames, 3, SIZE, SIZE)
    return {name: value.to(META) for name, value in batch.items()}


@pytest.mark.parametrize("part", ["content", "motion"])
@pytest.mark.parametrize("name, classes", [(name, 0) for name in EXPERIMENTS] + [("sky", CLASSES)])
def test_a_training_step(name, part, classes):
    e = PARAMS.experiment(name)
    facts, model = getattr(e, part), network(part, e, classes)
    schedule, classed = Schedule(facts.diffusion), bool(classes)
    loss = (
        content_loss(facts.diffusion, schedule, classed) if part == "content" else motion_loss(facts, schedule, classed)
    )
    batch = batch_of(e, part, classes)
    loss(model, batch).backward()
    assert {p.grad.device for p in model.parameters() if p.grad is not None} == {META}
    with Copies() as copies:
        loss(model, batch)
    assert not copies.seen, "a step that copies from the CPU waits for the one before"


@pytest.mark.parametrize(
    "name, sampler", [("sky", sampler) for sampler in METHODS] + [(name, "ddpm") for name in EXPERIMENTS[1:]]
)
def test_a_first_frame_and_the_next(name, sampler):
    e = PARAMS.experiment(name)
    facts = {"sampler": sampler, "content_sampler": sampler, "steps": 3, "content_steps": 3, "precision": "fp32"}
    content, motion = (network(part, e, CLASSES).eval() for part in ("content", "motion"))
    rollout = Rollout(content, motion, e.sampling.model_copy(update=facts), META)
    noises = [VideoNoise(0, k, SIZE, 0.5) for k in range(2)]
    batch = Batch(noises, torch.tensor([0, 1], device=META))
    batch.first = rollout.first_frames(noises, batch.label)
    batch.recent = [batch.first]
    rollout.next_frame([batch], 1, 1.0, Residuals(motion, 2**20, rollout.clock))
    assert batch.first.shape == batch.recent[0].shape == (2, 3, SIZE, SIZE)
    assert batch.first.device == batch.recent[0].device == META


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_norm_is_in_the_dtype_of_its_map(dtype, monkeypatch):
    """Beside autocast, whose list has it in fp32: the kernel of a GPU takes one dtype."""
    took = []

    def group_norm(x, groups, weight, bias, eps):
        took.append((x.dtype, weight.dtype, bias.dtype))
        return torch.group_norm(x, groups, weight, bias, eps)

    monkeypatch.setattr("vidm.models.norm.F.group_norm", group_norm)
    entered = []
    monkeypatch.setattr("vidm.models.norm.full_precision", lambda device: entered.append(device) or nullcontext())
    with META:
        assert GroupNorm(4, 8)(torch.zeros(2, 8, 4, 4, dtype=dtype)).dtype == dtype
    assert took == [(dtype,) * 3] and entered == [META]
    took.clear()
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(GroupNorm(4, 8)(x), torch.nn.GroupNorm(4, 8)(x)), "a CPU's is torch's"


def test_given_frames_and_flow():
    frames = as_images(np.zeros((2, SIZE, SIZE, 3), np.uint8), META)
    with META:
        assert SpyNet()(frames, frames).device == META


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clips_in_front_of_the_detector(protocol):
    clips = torch.zeros(1, 2, 20, 30, 3, dtype=torch.uint8, device=META)
    assert preprocess(clips, find(protocol)).device == META


@pytest.fixture
def tf32():
    """As after `machine.set_tf32` on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32, "put back"
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("fast", [False, True])
@torch.inference_mode()
def test_detectors(fast, tf32):
    """In full fp32 and by cuDNN."""
    seen = set()

    def see(*_):
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        seen.add((cuda.allow_tf32, cudnn.allow_tf32, cudnn.enabled))

    with META:
        detector, inception = I3D().eval(), Inception().eval()
    for network in (detector, inception):
        next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)).register_forward_hook(
            see
        )
    detector = detector.fast() if fast else detector
    assert detector(torch.zeros(1, 3, 16, 224, 224, device=META)).device == META
    frames = frames_to_input(torch.zeros(2, 20, 30, 3, dtype=torch.uint8, device=META))
    assert inception(frames).device == META
    assert seen == {(False, False, True)}


def test_the_benchmark_s_own_baseline(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    baseline = importlib.import_module("sampling_speed").on_the_whole_grid
    e = PARAMS.experiment("sky")
    norm = next(m for m in network("motion", e).modules() if type(m).__name__ == "PosGN")
    t, n = torch.tensor([[3, 9], [1, 2]], device=META)
    scale, shift = baseline(norm, t, n, 8, 8)
    assert scale.shape == shift.shape == (2, norm.norm.num_channels, 8, 8) and scale.device == META


def test_the_roofline_of_one_convolution_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("roofline")
    x, weight = torch.empty(1, 8, 4, 4, device=META), torch.empty(8, 8, 1, 1, device=META)
    peaks = {"bf16": 4e3, "tf32": 2e3, "fp32": 1e3, "bandwidth": 1e12}
    for kind, peak, size in (("naive", "tf32", 4), ("eager", "bf16", 2), ("fused", "bf16", 2)):
        with module.Roofline(peaks, kind) as found:
            y = torch.nn.functional.conv2d(x, weight)
            y.permute(0, 2, 3, 1)[0].sigmoid()
        elementwise = 0 if kind == "fused" else 2 * 128
        assert found.flops == 2 * 8 * 8 * 16
        assert found.bytes == size * (128 + 64 + 128 + elementwise)
        assert found.seconds == pytest.approx(found.flops / peaks[peak], rel=1e-6)
