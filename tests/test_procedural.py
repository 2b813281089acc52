"""The embedded sky: addressed randomness, motion that is as said, files that are real and never someone else's."""

import hashlib
import json

import numpy as np
import pytest

from vidm.config import Procedural
from vidm.data import procedural, video
from vidm.data.clouds import Layer
from vidm.data.procedural import Scene, render
from vidm.errors import InputError

TINY = Procedural(seed=3, train=3, test=2, size=32, frames=4, fps=10)


def warp(supporting, flow):
    """Backward bilinear warp of (H, W, C), clamped at the border; written here, apart from the package's own."""
    height, width = supporting.shape[:2]
    x = np.clip(np.arange(width) + flow[0], 0, width - 1)
    y = np.clip(np.arange(height)[:, None] + flow[1], 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    a, b = (x - left)[..., None], (y - top)[..., None]
    upper = supporting[top, left] * (1 - a) + supporting[top, left + 1] * a
    lower = supporting[top + 1, left] * (1 - a) + supporting[top + 1, left + 1] * a
    return upper * (1 - b) + lower * b


def area(frames, factor):
    *lead, height, width, channels = frames.shape
    shape = (*lead, height // factor, factor, width // factor, factor, channels)
    return frames.reshape(shape).astype(np.float64).mean((-4, -2))


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes():
    return [Scene(0, "train", index) for index in range(48)]


@pytest.fixture(scope="module")
def pairs(scenes):
    """Two frames of each scene, float."""
    return [np.stack([scene.frame(0), scene.frame(1)]).astype(np.float64) for scene in scenes]


def test_a_clip_is_a_function_of_its_address():
    clip = Scene(1, "train", 5, size=32, frames=3).frames()
    assert clip.shape == (3, 32, 32, 3) and clip.dtype == np.uint8
    np.random.seed(0)  # must not matter
    np.testing.assert_array_equal(Scene(1, "train", 5, size=32, frames=3).frames(), clip)
    np.testing.assert_array_equal(Scene(1, "train", 5, size=32, frames=9).frames()[:3], clip)
    for other in ((2, "train", 5), (1, "test", 5), (1, "train", 6), (-1, "train", 5)):
        assert np.abs(Scene(*other, size=32, frames=3).frames().astype(int) - clip).mean() > 3, other


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match="no split 'valid'"):
        Scene(0, "valid", 0)


def test_the_same_scene_at_every_size():
    for index in range(6):
        large, small = (Scene(0, "test", index, size=size) for size in (128, 64))
        difference = np.abs(area(large.frame(3), 4) - area(small.frame(3), 2)).mean()
        other = np.abs(area(large.frame(3), 4) - area(Scene(0, "test", index + 6, size=64).frame(3), 2)).mean()
        assert difference < 2 and other > 5 * difference
        np.testing.assert_allclose(large.main.flow(1).mean((1, 2)), 2 * small.main.flow(1).mean((1, 2)), rtol=1e-2)


def layer(**changed):
    facts = {
        "wavelength": 0.7,
        "weights": (0.6, 0.2),
        "stretch": 1.3,
        "heading": 0.4,
        "curl": 0.05,
        "wind": np.array([3, -2]) / 64,
        "tilt": 0.0,
        "rates": (0.0, 0.0, 0.0),
    }
    return Layer(np.random.default_rng(0), 64, **(facts | changed))


def test_without_perspective_and_change_a_layer_shifts():
    clouds = layer()
    np.testing.assert_allclose(clouds.flow(2), np.broadcast_to([[[6]], [[-4]]], (2, 64, 64)), atol=1e-4)
    np.testing.assert_allclose(clouds.at(2)[:-4, 6:], clouds.at(0)[4:, :-6], atol=2e-4)


def test_with_perspective_the_flow_says_where_everything_went():
    clouds = layer(tilt=0.4, weights=(), rates=(0.0,))  # smooth, so that interpolating costs little
    first, later, flow = clouds.at(1), clouds.at(4), clouds.flow(3)
    assert np.ptp(flow[0]) > 2  # the far rows are slower
    inner = np.s_[12:-12, 12:-12]
    error = np.abs(warp(later[..., None], flow)[..., 0] - first)[inner].mean()
    assert error < 0.02 < 20 * error < np.abs(later - first)[inner].mean()


def test_noise_is_about_normal_and_changes_shape_slowly():
    clouds = layer(rates=(0.008, 0.014, 0.02), wind=np.zeros(2))
    at = [clouds.at(n).ravel() for n in (0, 1, 31)]
    assert abs(np.mean(at)) < 0.5 and 0.6 < np.std(at) < 1.4
    assert np.corrcoef(at[0], at[1])[0, 1] > 0.995
    assert 0.7 < np.corrcoef(at[0], at[2])[0, 1] < 0.99


@pytest.mark.parametrize(("n_from", "n_to"), [(0, 1), (1, 0), (0, 2)])
def test_warping_by_the_true_flow_reconstructs_the_picture(scenes, n_from, n_to):
    ratios = []
    for scene in scenes[:16]:
        reference, supporting = (scene.frame(n).astype(np.float64) for n in (n_from, n_to))
        flow, mask = scene.flow(n_from, n_to), scene.mask(n_from, n_to)[..., None]
        assert flow.shape == (2, 128, 128) and flow.dtype == mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1 and mask.mean() > 0.05

        def error(by, supporting=supporting, reference=reference, mask=mask):
            return (np.abs(warp(supporting, by) - reference) * mask).sum()

        still, true, wrong = error(0 * flow), error(flow), error(-flow)
        assert true < 0.5 * still < still < wrong  # the sign is SpyNet's
        ratios.append(true / still)
    assert np.mean(ratios) < 1 / 3


def test_the_wind_is_that_of_a_time_lapse(scenes):
    speed = np.array([np.hypot(*scene.main.flow(1)[:, 64, 64]) for scene in scenes])
    assert speed.min() > 1.9 and speed.max() < 6 and np.ptp(speed) > 2
    assert 0.2 < np.mean([scene.main.wind[0] > 0 for scene in scenes]) < 0.8


def test_hills_stand_still(scenes):
    hilly = [scene for scene in scenes if scene.ground.any()]
    assert 0.15 < len(hilly) / len(scenes) < 0.45
    for scene in hilly[:5]:
        solid = scene.ground == 1
        np.testing.assert_array_equal(scene.frame(0)[solid], scene.frame(9)[solid])
        assert not scene.flow(0, 9)[:, solid].any() and not scene.mask(0, 9)[solid].any()


def test_scenes_differ_and_move_at_32_pixels(scenes, pairs):
    small = area(np.stack(pairs), 4)
    motion = np.abs(small[:, 1] - small[:, 0]).mean((1, 2, 3))
    assert 3 < motion.mean() < 8 and motion.min() > 1
    assert {scene.kind for scene in scenes} == set(procedural.KINDS)
    colours = small[:, 0].mean((1, 2))
    assert (colours.std(0) > 20).all()
    assert min(image.std() for image in small[:, 0]) > 5  # none is blank


def test_train_and_test_are_alike(pairs):
    train = np.array([pair[0].mean((0, 1)) for pair in pairs])
    test = np.array([Scene(0, "test", i, size=32).frame(0).mean((0, 1)) for i in range(48)])
    error = np.sqrt((train.var(0) + test.var(0)) / 48)
    assert (np.abs(train.mean(0) - test.mean(0)) < 3.5 * error).all()


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    summary = render(tmp_path / "one", TINY, workers=1)
    render(tmp_path / "two", TINY, workers=2)
    assert "3 train and 2 test clips" in summary
    one = digests(tmp_path / "one")
    assert one == digests(tmp_path / "two")
    assert sum(name.endswith(".mp4") for name in one) == 5
    assert len(set(one.values())) == len(one)
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["facts"] == TINY.model_dump() and manifest["files"] == 5


def test_files_are_h264_and_show_the_scene(tmp_path):
    import av

    facts = Procedural(seed=0, train=1, test=1, size=128, frames=8, fps=25)
    render(tmp_path / "sky", facts, workers=1)
    with av.open(str(tmp_path / "sky" / "test" / "sky_00000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    truth = Scene(0, "test", 0, frames=8).frames()
    assert shown.shape == truth.shape
    assert 10 * np.log10(255**2 / np.mean((shown.astype(float) - truth) ** 2)) > 32


def test_its_own_folder_is_replaced_another_is_not(tmp_path):
    out = tmp_path / "sky"
    out.mkdir()  # a workflow makes the folder of an output
    render(out, TINY, workers=1)
    before = digests(out)
    (out / "manifest.json").unlink()  # and deletes an output before it asks again
    render(out, TINY.model_copy(update={"seed": 4, "train": 1}), workers=1)
    after = digests(out)
    assert len(after) == len(before) - 2 and not set(after.values()) & {before["train/sky_00000.mp4"]}
    (out / "train" / "holiday.mp4").write_bytes(b"mine")
    kept = digests(out)
    with pytest.raises(InputError, match=r"holds 'train/holiday\.mp4'"):
        render(out, TINY, workers=1)
    assert digests(out) == kept
    foreign = tmp_path / "foreign" / "train"
    foreign.mkdir(parents=True)
    (foreign / "sky_00000.mp4").write_bytes(b"mine too")  # named like ours, not ours
    with pytest.raises(InputError, match="not rendered here"):
        render(tmp_path / "foreign", TINY, workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        render(tmp_path / "file", TINY, workers=1)
    with pytest.raises(InputError, match="can't be written"):
        render(tmp_path / "file" / "sky", TINY, workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"sky", "foreign", "file"}


def test_a_failure_keeps_the_old_folder(tmp_path, monkeypatch):
    render(tmp_path / "sky", TINY, workers=1)
    before = digests(tmp_path / "sky")
    encode, calls = video.encode, []

    def fails_later(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("disk full")
        encode(*arguments)

    monkeypatch.setattr(video, "encode", fails_later)
    with pytest.raises(OSError, match="disk full"):
        render(tmp_path / "sky", TINY, workers=1)
    assert digests(tmp_path / "sky") == before
    assert [path.name for path in tmp_path.iterdir()] == ["sky"]
