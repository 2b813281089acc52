"""Diffusing a difference instead of a frame: its base, its scale, its noise levels, and training on own outputs."""

import itertools
import math

import numpy as np
import pytest
import torch
from test_models import FRAMES, SIZE, SMALL, awake
from test_sampling import FACTS, noises
from torch.nn import functional as F
from torch.testing import assert_close

from vidm import config, weights
from vidm.config import Content, Diffusion, Motion, OwnOutputs
from vidm.data.clips import Own, TripletDraw
from vidm.data.procedural import Scene
from vidm.data.store import FrameStore, StoreWriter
from vidm.diffusion.gaussian import network_input, q_sample
from vidm.diffusion.samplers import METHODS, Sampler
from vidm.diffusion.schedule import Schedule, level_probabilities, noise_levels
from vidm.errors import InputError
from vidm.models import trained
from vidm.sampling.rollout import Rollout
from vidm.training import motion
from vidm.training.own import next_frame, own_outputs

V = Diffusion(prediction="v")
CARRIED = {"target": "warped-difference", "velocity_frames": 2, "previous": True}
TOLD = {"target": "difference", "conditioning_noise": 0.1, "conditioning_level": True}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs/ is made in it


def network(**switches):
    torch.manual_seed(0)
    made = awake(trained.build("motion", Motion(network=SMALL, diffusion=V, **switches), SIZE, FRAMES))
    if made.facts.target != "frame":
        made.scale.copy_(torch.linspace(0.05, 0.2, FRAMES))
    return made


def moved(image, flow):
    """Backward warping written out: the picture at p + flow(p), bicubic, its border repeated."""
    side = image.shape[-1]
    grid = F.affine_grid(torch.eye(2, 3).expand(len(image), 2, 3), image.shape, align_corners=True)
    return F.grid_sample(
        image, grid + 2 * flow.permute(0, 2, 3, 1) / (side - 1), "bicubic", "border", align_corners=True
    )


@pytest.mark.parametrize("switches", [{}, {"target": "difference"}, CARRIED, TOLD])
@pytest.mark.parametrize("given", [0, 3])
@torch.no_grad()
def test_a_rollout_is_the_loop_written_out(switches, given):
    """From a first frame, and going on from three given ones; each video alone, everything made again each time."""
    facts = FACTS.model_copy(update={"batch": 2})
    torch.manual_seed(0)
    content = awake(trained.build("content", Content(network=SMALL, diffusion=V), SIZE, FRAMES))
    made = network(**switches)
    rollout = Rollout(content, made, facts, torch.device("cpu"))
    clips = np.random.default_rng(0).integers(256, size=(3, given, SIZE, SIZE, 3), dtype=np.uint8) if given else None
    fast = rollout.videos(noises(range(3)), 6, None, clips)
    for k, noise in enumerate(noises(range(3))):
        frames = [torch.from_numpy(fast[k, :1]).permute(0, 3, 1, 2) / 127.5 - 1]
        if given:
            frames = [torch.from_numpy(frame[None]).permute(0, 3, 1, 2) / 127.5 - 1 for frame in clips[k]]
        else:
            frames = [rollout.first_frames([noise])]
        for n in range(len(frames), 6):
            first, prev, one = frames[0], frames[-1], torch.tensor([n])
            base, scale, gap = 0.0, 1.0, min(2, n - 1)
            if made.facts.target != "frame":
                base, scale = prev, made.scale[n]
            if made.facts.target == "warped-difference" and gap:
                flow = made.spynet((prev + 1) / 2, (frames[n - 1 - gap] + 1) / 2)
                base = moved(prev, flow / gap)
            code = [made.spynet((first + 1) / 2, (prev + 1) / 2)]
            code += [base if made.facts.target == "warped-difference" else prev] if made.facts.previous else []
            code += [torch.zeros(1, 1, SIZE, SIZE)] if made.facts.conditioning_level else []
            code = torch.cat(code, dim=1)
            sampler = Sampler(V, "ddim", 3, 0.5, True, bounded=made.facts.target == "frame")
            d = sampler(
                lambda x, t, one=one, first=first, prev=prev, code=code: made(x, t, one, first, prev, None, code),
                torch.from_numpy(noise.motion(n, 3))[None],
            )
            frames.append((base + scale * d).clamp(-1, 1))
        slow = ((torch.cat(frames).permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
        assert np.abs(fast[k] - slow).max() <= 1  # grey levels
        assert slow.std() > 5


@pytest.mark.parametrize("switches", [{}, {"target": "difference"}, CARRIED])
@torch.no_grad()
def test_a_frame_comes_back_from_what_is_diffused(switches):
    made = network(**switches)
    first, prev, back, frame = torch.rand(4, 5, 3, SIZE, SIZE) * 2 - 1
    n, gap = torch.tensor([1, 2, 3, 4, 7]), torch.tensor([0, 1, 2, 2, 2])
    given = made.conditions(first, prev, n, back, gap)
    assert_close(given.frame(given.diffused(frame)), frame, rtol=0, atol=1e-5)
    if made.facts.target != "frame":
        assert_close(given.diffused(given.base), torch.zeros_like(frame))
        assert_close(given.frame(torch.ones_like(frame)), (given.base + made.scale[n].view(-1, 1, 1, 1)).clamp(-1, 1))


@torch.no_grad()
def test_the_carried_frame_leaves_less_to_be_made():
    """On the embedded sky, whose clouds move: three fifths of the plain difference at most, and none of it at n = 1."""
    clips = np.stack([Scene(0, "train", k, size=32, frames=8).frames() for k in range(24)])
    clips = torch.from_numpy(clips).permute(0, 1, 4, 2, 3) / 127.5 - 1
    scales = {}
    for target in ("difference", "warped-difference"):
        made = trained.build("motion", Motion(network=SMALL, target=target), 32, 8)
        made.spynet.load_pretrained(weights.load("spynet-procedural")[0])
        made.measure_scale(clips)
        scales[target] = made.scale
    truth = torch.stack([(clips[:, n] - clips[:, n - 1]).square().mean().sqrt() for n in range(1, 8)])
    assert_close(scales["difference"][1:], truth)
    assert_close(scales["warped-difference"][1], truth[0])
    assert (scales["warped-difference"][2:] < 0.6 * truth[1:]).all()


def test_clips_that_stand_still_are_refused_before_the_first_step(tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(1, 16, 16, 3), dtype=np.uint8).repeat(6, 0)
    with StoreWriter(tmp_path / "still.h5", 16, 16, {}, origin="raw") as writer:
        for k in range(3):
            writer.add(np.roll(frames, k, 1), fps=25, split="train", source=f"clip {k}")
    part = {"network": SMALL.model_dump(), "training": {"steps": 2, "batch": 2}}
    document = {
        "model_version": 1,
        "datasets": {"still": {"raw": "data/raw/still", "resolution": 16, "min_frames": 4}},
        "experiments": {
            "still": {"dataset": "still", "frames": 4, "content": part, "motion": part | {"target": "difference"}}
        },
    }
    with pytest.raises(InputError, match=r"stand still, so that experiments\.still\.motion\.target: difference has"):
        motion.train(config.resolve(document), "still", tmp_path / "still.h5", tmp_path / "motion.safetensors")
    assert not (tmp_path / "motion.safetensors").exists()


# What is drawn.


def test_log_normal_levels_are_log_normal():
    facts = Diffusion(levels="log-normal", levels_mean=-0.5, levels_std=1.2)
    p, log_sigma = level_probabilities(facts).numpy(), noise_levels(Schedule(facts)).log().numpy()
    assert p.sum() == pytest.approx(1)
    # Against draws from the law, each put to the nearest step.
    drawn = np.random.default_rng(0).normal(-0.5, 1.2, 200_000)
    nearest = np.abs(log_sigma[:, None] - drawn[None, :2000]).argmin(0)
    assert (
        np.abs(np.searchsorted(np.cumsum(p), np.sort(np.random.default_rng(1).random(2000))).mean() - nearest.mean())
        < 12
    )
    for low, high in [(0.05, 1), (1, 5), (5, 20)]:
        inside = (log_sigma > math.log(low)) & (log_sigma <= math.log(high))
        share = ((drawn > math.log(low)) & (drawn <= math.log(high))).mean()
        assert p[inside].sum() == pytest.approx(share, abs=0.01)
    uniform = level_probabilities(Diffusion(steps=50))
    assert_close(uniform, torch.full((50,), 0.02, dtype=torch.float64))


def test_items_have_levels_history_and_depth(store):
    frames = FrameStore(store)
    p = [0.0, 0.5, 0.0, 0.5]
    draw = TripletDraw(frames, frames=6, levels=p, history=3, own=Own(0.5, 10, 2), seed=4)
    items = [draw.item(step, k) for step, k in itertools.product(range(10, 60), range(8))]
    assert {int(item["t"]) for item in items} == {1, 3}
    clips = {i: frames.read(i) for i in draw.clips}
    for item in items:
        n, clip = int(item["n"]), clips[int(item["clip"])]
        clip = clip[:, :, ::-1] if item["flipped"] else clip
        for k, frame in enumerate(item["history"]):
            truth = clip[max(0, n - 2 - k)].transpose(2, 0, 1) / np.float32(127.5) - 1
            np.testing.assert_allclose(frame, truth, atol=1e-6)
        assert item["depth"] <= min(2, n - 1)
    share = np.mean([item["depth"] > 0 for item in items if item["n"] > 1])
    assert abs(share - 0.5) < 0.1
    assert {int(item["depth"]) for item in items} == {0, 1, 2}
    assert not any(draw.item(9, k)["depth"] for k in range(50)), "before its start there are none"
    # The rest of an item is what it is without.
    plain = TripletDraw(frames, frames=6, levels=p, seed=4).item(20, 3)
    for key, value in plain.items():
        np.testing.assert_array_equal(draw.item(20, 3)[key], value)


# Where a solver's steps stand.

SCHEDULES = [Diffusion(), Diffusion(schedule="cosine"), Diffusion(steps=50), Diffusion(schedule="cosine", steps=200)]


@pytest.mark.parametrize("facts", SCHEDULES, ids=lambda f: f"{f.schedule}-{f.steps}")
@pytest.mark.parametrize("name", ["dpm-solver++", "sde-dpm-solver++", "unipc"])
@pytest.mark.parametrize("sigma_max", [None, 20.0, 3.0])
def test_steps_in_log_snr_are_even_and_begin_where_they_are_told(facts, name, sigma_max):
    steps = Sampler(facts, name, 8, 0.0, True, sigma_max).timesteps
    sigma = noise_levels(Schedule(facts))
    first, last = float(sigma[steps[0]]), float(sigma[steps[-1]])
    highest = float(sigma[-1]) if sigma_max is None else sigma_max
    assert first <= min(highest, math.exp(5.1)) * 1.0001
    assert (steps.diff() < 0).all() and steps[-1] == 0
    # The next step of training would be beyond the limit.
    if steps[0] + 1 < facts.steps:
        assert sigma[steps[0] + 1] > min(highest, math.exp(5.1))
    wanted = np.linspace(math.log(first), math.log(last), 8)
    # No further off than half the way between two steps of training there, at the coarse end of a schedule.
    grid = sigma.log().numpy()
    for k, value in zip(steps.tolist(), wanted, strict=True):
        near = grid[max(0, k - 2) : k + 3]
        assert near.min() <= value <= near.max()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("facts", SCHEDULES, ids=lambda f: f"{f.schedule}-{f.steps}")
def test_every_sampler_begins_below_sigma_max(name, facts):
    for sigma_max in (20.0, 1.0):
        steps = Sampler(facts, name, 5, 0.0, True, sigma_max).timesteps
        assert noise_levels(Schedule(facts))[steps[0]] <= sigma_max * 1.0001
        assert len(steps) == 5 and (steps.diff() < 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_network_sees_a_scaled_input(name):
    """The same videos from a network that undoes it; training shows it the same."""
    plain, scaled = Diffusion(prediction="v"), Diffusion(prediction="v", scaled_input=True)
    schedule = Schedule(scaled)

    def network(x, t):
        return torch.tanh(x.flip(1) + t.view(-1, 1, 1, 1) / 500)

    samplers = [Sampler(facts, name, 6, 1.0, True) for facts in (plain, scaled)]
    noise = torch.randn(2, 1 + samplers[0].draws, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    undone = samplers[1](lambda u, t: network(u / schedule.sqrt_alpha_bar[t].float(), t), noise)
    # At the last steps the division undoes a factor of 0.006.
    assert_close(undone, samplers[0](network, noise), rtol=0, atol=1e-4)
    x_0, t = torch.zeros(3, 3, 4, 4), torch.tensor([0, 500, 999])
    eps = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    seen = network_input(schedule, q_sample(schedule, x_0, t, eps), t)
    abar = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
    assert_close(seen, (abar * (1 - abar)).sqrt() * eps, rtol=1e-4, atol=1e-6)
    assert_close(network_input(Schedule(plain), eps, t), eps, rtol=0, atol=0)


def test_the_first_step_of_motion_comes_more_often(store):
    draw = TripletDraw(FrameStore(store), frames=6, first_share=0.4)
    n = np.array([draw.item(step, k)["n"] for step, k in itertools.product(range(100), range(10))])
    assert np.mean(n == 1) == pytest.approx(0.4 + 0.6 / 5, abs=0.05)
    assert [np.mean(n == k) for k in range(2, 6)] == pytest.approx([0.6 / 5] * 4, abs=0.04)


# Own outputs.


@torch.no_grad()
def test_own_outputs_are_what_the_network_makes_of_the_frames_before():
    made = network(**CARRIED)
    sampler = Sampler(V, "dpm-solver++", 2, 0.0, True, 20.0, bounded=False)
    g = torch.Generator().manual_seed(3)
    frames = torch.rand(6, 4, 3, SIZE, SIZE, generator=g) * 2 - 1  # n-1, n-2, ...
    batch = {
        "first": torch.rand(4, 3, SIZE, SIZE, generator=g) * 2 - 1,
        "previous": frames[0],
        "history": frames[1:].transpose(0, 1),
        "n": torch.tensor([5, 6, 7, 7]),
        "depth": torch.tensor([0, 1, 2, 2]),
        "own_noise": torch.randn(4, 2, 3, SIZE, SIZE, generator=g),
    }
    found = own_outputs(made, sampler, batch, None)
    assert torch.equal(found[0][0], frames[0][0]) and torch.equal(found[1][:2], frames[1][:2])
    for k, depth in enumerate(batch["depth"].tolist()):
        chain = [frame[k : k + 1] for frame in frames]
        for d in range(depth, 0, -1):
            n = batch["n"][k : k + 1] - d
            noise, first = batch["own_noise"][k : k + 1, d - 1], batch["first"][k : k + 1]
            chain[d - 1] = next_frame(made, sampler, chain[d:], first, n, noise, None)
        for ours, truth in zip(found[:3], chain[:3], strict=True):
            assert_close(ours[k : k + 1], truth, rtol=0, atol=1e-5)
    assert (found[0][1:] - frames[0][1:]).abs().mean() > 0.01


SWITCHES = [
    {"target": "difference", "conditioning_noise": 0.1, "conditioning_level": True},
    {"target": "warped-difference", "previous": True, "spynet": "procedural"},
    {"target": "warped-difference", "spynet": "procedural", "spynet_finetuned": False, "own_outputs": {"share": 0.9}},
    {"own_outputs": {"share": 1.0, "start": 0.0, "frames": 3, "steps": 1}},
]
# Each of these alone must change what is trained: a switch that does not reach the training says nothing.
ALONE = [
    {"target": "difference"},
    {"target": "warped-difference", "spynet": "procedural", "velocity_frames": 1},
    {"first_share": 1.0},
    {"conditioning_noise": 0.5},
    {"own_outputs": {"share": 1.0, "start": 0.0}},
    {"diffusion": {"levels": "log-normal"}},
    {"diffusion": {"scaled_input": True}},
]


@pytest.mark.parametrize("switches", ALONE, ids=str)
def test_every_switch_reaches_the_training(switches, params, store, tmp_path):
    facts = params.experiment("dots")
    bytes_of = {}
    for name, over in (("plain", {}), ("switched", switches)):
        one = facts.model_copy(update={"motion": Motion.model_validate(facts.motion.model_dump() | over)})
        given, file = params.model_copy(update={"experiments": {"dots": one}}), tmp_path / name / "motion.safetensors"
        motion.train(given, "dots", store, file, tmp_path / name / "runs")
        made, _ = trained.load(file, "motion", torch.device("cpu"))
        bytes_of[name] = b"".join(p.detach().numpy().tobytes() for p in made.unet.parameters())
    assert bytes_of["plain"] != bytes_of["switched"]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_training_repeats_itself(switches, params, store, tmp_path):
    """The same bytes twice: what the network makes itself is a function of the item, too."""
    facts = params.experiment("dots")
    facts = facts.model_copy(update={"motion": Motion.model_validate(facts.motion.model_dump() | switches)})
    params = params.model_copy(update={"experiments": {"dots": facts}})
    for k in range(2):
        motion.train(params, "dots", store, tmp_path / str(k) / "motion.safetensors", tmp_path / str(k) / "runs")
    files = [tmp_path / str(k) / "motion.safetensors" for k in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    made, _ = trained.load(files[0], "motion", torch.device("cpu"))
    if made.facts.target != "frame":
        assert (made.scale[1:] > 0).all() and (made.scale[1:] != 1).all()


def test_impossible_switches_are_one_line(params, store, tmp_path):
    with pytest.raises(ValueError, match="conditioning_level: true with conditioning_noise: 0"):
        Motion(conditioning_level=True)
    with pytest.raises(ValueError, match=r"spynet: none can't carry frames \(target: warped-difference\)"):
        Motion(spynet="none", target="warped-difference")
    facts = params.experiment("dots")
    far = facts.model_copy(update={"sampling": facts.sampling.model_copy(update={"sigma_max": 500.0})})
    with pytest.raises(InputError, match=r"dots\.sampling\.sigma_max: 500 is beyond the schedule's last.*nearest: 157"):
        motion.train(
            params.model_copy(update={"experiments": {"dots": far}}), "dots", store, tmp_path / "m.safetensors"
        )
    assert not (tmp_path / "m.safetensors").exists()


def test_own_outputs_need_a_frame_between():
    part = {"network": SMALL.model_dump()}
    document = {
        "model_version": 1,
        "datasets": {"dots": {"raw": "data/raw/dots", "resolution": 16, "min_frames": 4}},
        "experiments": {
            "dots": {"dataset": "dots", "frames": 2, "content": part, "motion": part | {"own_outputs": {"share": 0.5}}}
        },
    }
    with pytest.raises(config.ConfigError, match=r"own_outputs\.share: with frames = 2 there is no frame between"):
        config.resolve(document)
    assert OwnOutputs().share == 0
