"""The rollout against a naive loop, noise by address, and what `vidm sample` leaves behind."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_models import FRAMES, SIZE, SMALL, awake
from torch.testing import assert_close

from vidm.config import Content, Diffusion, Experiment, Motion, Sampling
from vidm.data.store import FrameStore, StoreWriter
from vidm.diffusion.samplers import Sampler
from vidm.errors import InputError
from vidm.models import trained
from vidm.sampling import export
from vidm.sampling.noise import VideoNoise, label_of
from vidm.sampling.rollout import Rollout

FACTS = Sampling(sampler="ddim", eta=0.5, steps=3, content_steps=2, precision="fp32", noise_correlation=0.9)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs/ is made in it


def made(classes=0, variance="fixed-small", **switches):
    torch.manual_seed(0)
    v = Diffusion(prediction="v", variance=variance)
    content_facts, motion_facts = Content(network=SMALL, diffusion=v), Motion(network=SMALL, diffusion=v, **switches)
    networks = [
        awake(trained.build(part, facts, SIZE, FRAMES, classes))
        for part, facts in (("content", content_facts), ("motion", motion_facts))
    ]
    return Rollout(*networks, FACTS, torch.device("cpu"))


def noises(videos, content_of=None):
    return [VideoNoise(0, k, SIZE, 0.9, content_of) for k in videos]


@pytest.fixture(scope="module")
def rollout():
    return made()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"posgn": False},
        {"residual": "output"},
        {"residual": "none"},
        {"residual": "features-n", "spynet_range": "signed", "variance": "learned-range"},
        {"classes": 3},
    ],
)
@torch.no_grad()
def test_caches_change_nothing(form):
    """Algorithm 2 written out: everything again at every step of every frame, for each video alone."""
    rollout = made(**form)
    labels = [2, 1] if "classes" in form else None
    fast = rollout.videos(noises(range(2)), 4, labels)
    v = Diffusion(prediction="v", variance=form.get("variance", "fixed-small"))
    for k in range(2):
        noise, label = VideoNoise(0, k, SIZE, 0.9), [torch.tensor([labels[k]])] if labels else []
        sampler = Sampler(v, "ddim", 2, 0.5, True)
        first = sampler(
            lambda x, t, label=label: rollout.content(x, t, *label), torch.from_numpy(noise.content(2))[None]
        )
        sampler, frames = Sampler(v, "ddim", 3, 0.5, True), [first]
        for n in range(1, 4):

            def predict(x, t, n=n, first=first, prev=frames[-1], label=label):
                return rollout.motion(x, t, torch.tensor([n]), first, prev, *label)

            frames.append(sampler(predict, torch.from_numpy(noise.motion(n, 3))[None]))
        slow = ((torch.cat(frames).permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
        assert np.abs(fast[k] - slow).max() <= 1  # grey levels
        assert np.abs(fast[k] - slow).mean() < 0.01
        assert slow.std() > 5


def test_noise_depends_on_its_address_alone():
    a, b = VideoNoise(3, 5, 8, 0.9), VideoNoise(3, 5, 8, 0.9)
    late = b.motion(7, 2)
    assert np.array_equal(a.content(1), b.content(1))
    assert np.array_equal(a.motion(7, 2), late)
    others = [
        VideoNoise(3, 5, 8, 0.9).motion(6, 2),
        VideoNoise(3, 6, 8, 0.9).motion(7, 2),
        VideoNoise(4, 5, 8, 0.9).motion(7, 2),
    ]
    assert not any(np.array_equal(late[1:], other[1:]) for other in others)
    streams = [VideoNoise(s, v, 8, 0.0).motion(n, 0) for s in (0, 1) for v in (0, 1) for n in (0, 1)]
    assert len({x.tobytes() for x in streams}) == 8  # zeros in an address collide with nothing


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_stays_standard_normal_with_the_stated_correlation(correlation):
    noise = VideoNoise(0, 0, 128, correlation)
    a, b = noise.motion(1, 0)[0].ravel(), noise.motion(2, 0)[0].ravel()
    assert abs(a.mean()) < 0.02 and abs(a.std() - 1) < 0.01
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(correlation, abs=0.02)


def test_batches_do_not_matter(rollout):
    together = rollout.videos(noises(range(4)), 3)
    alone = rollout.videos(noises(range(2, 3)), 3)[0]
    assert np.abs(together[2].astype(int) - alone).max() <= 1


def test_pictures(tmp_path):
    videos = np.random.default_rng(0).integers(256, size=(3, 5, 16, 16, 3), dtype=np.uint8)
    export.contact_sheet(tmp_path / "sheet.png", videos, every=2, side=32)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 3 * 34 + 2  # frames 0, 2 and 4
    cell = sheet[18 + 2 : 18 + 34, 2:34]
    assert_close(torch.tensor(cell), torch.tensor(export.enlarged(videos[0, :1], 32)[0]))


def test_a_moving_preview(tmp_path):
    videos = np.zeros((3, 5, 16, 16, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
    export.preview(tmp_path / "p.webp", videos, fps=8, columns=2, side=32)
    with Image.open(tmp_path / "p.webp") as picture:
        assert (picture.n_frames, picture.size) == (5, (66, 66))
        picture.seek(4)
        assert abs(np.asarray(picture.convert("RGB"))[10, 10].astype(int) - 200).max() < 8


def test_the_command(params, store, tmp_path):
    from vidm.sampling.run import sample
    from vidm.training import content, motion

    content.train(params, "dots", store, tmp_path / "c.safetensors")
    motion.train(params, "dots", store, tmp_path / "m.safetensors")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "video_007.mp4").touch()  # of an earlier run with a longer sheet
    for name in ("a", "b"):
        sample(params, "dots", tmp_path / "c.safetensors", tmp_path / "m.safetensors", tmp_path / name)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "samples.h5",
        "video_000.mp4",
        "contact_sheet.png",
        "preview.webp",
    }
    with FrameStore(tmp_path / "a" / "samples.h5") as a, FrameStore(tmp_path / "b" / "samples.h5") as b:
        assert a.sha256 == b.sha256
        assert (len(a), a.length(0), a.origin) == (2, 4, "generated")


def test_labels_are_drawn_as_often_as_the_clips_have_them():
    labels = [label_of(0, k, [30, 0, 10]) for k in range(2000)]
    assert labels == [label_of(0, k, [30, 0, 10]) for k in range(2000)]
    assert labels.count(1) == 0
    assert labels.count(0) / 2000 == pytest.approx(0.75, abs=0.03)


def test_classes_and_the_official_loss_from_training_to_samples(params, store, tmp_path):
    """The clips' classes reach both networks and come back with the samples; learned variance on the way."""
    from vidm.sampling.run import sample
    from vidm.training import content, motion

    classed = tmp_path / "classed.h5"
    with FrameStore(store) as plain, StoreWriter(classed, 16, 16, {}, origin="raw") as writer:
        for i in range(len(plain)):
            writer.add(plain.read(i), fps=25, split="train", source=str(i), cls="ab"[i % 2])
    official = {"loss": "mse", "variance": "learned-range", "weighting": "p2"}
    e = params.experiment("dots")
    facts = e.model_dump() | {"class_conditioning": True}
    facts["motion"] |= {"residual": "features-n", "spynet_range": "signed", "diffusion": official}
    params = params.model_copy(update={"experiments": {"dots": Experiment.model_validate(facts)}})

    with pytest.raises(InputError, match="have 1 class"):
        content.train(params, "dots", store, tmp_path / "c.safetensors")
    content.train(params, "dots", classed, tmp_path / "c.safetensors")
    motion.train(params, "dots", classed, tmp_path / "m.safetensors")
    _, notes = trained.load(tmp_path / "m.safetensors", "motion", torch.device("cpu"))
    assert notes["classes"] == {"a": 2, "b": 2}
    sample(params, "dots", tmp_path / "c.safetensors", tmp_path / "m.safetensors", tmp_path / "s")
    with FrameStore(tmp_path / "s" / "samples.h5") as made:
        assert made.classes == ["ab"[label_of(0, k, [2, 2])] for k in range(2)]
