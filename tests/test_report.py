"""An experiment's report on tiny stores: its keys, its baselines, determinism, the cache, and what is refused."""

import json
import os

import numpy as np
import pytest

from vidm import config
from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.metrics import features, fvd, report
from vidm.metrics.clipset import from_array, from_store, open_set
from vidm.metrics.features import Kept, motion
from vidm.metrics.protocol import find

CHECKPOINTS = {
    "content": {"sha256": "a" * 64, "step": 4, "ema": 0.99},
    "motion": {"sha256": "b" * 64, "step": 5, "ema": 0.99},
}
SAMPLING = {"sampler": "ddim", "steps": 3, "eta": 0.0, "precision": "bf16", "seeds": {"seed": 0, "videos": [0, 2]}}
SIDE = 12


def write_store(path, lengths, split, seed, origin="procedural", attributes=None):
    rng = np.random.default_rng(seed)
    with StoreWriter(path, SIDE, SIDE, {}, origin=origin) as store:
        for k, (length, s) in enumerate(zip(lengths, split, strict=True)):
            clip = rng.integers(0, 256, (length, SIDE, SIDE, 3), np.uint8)
            store.add(clip, fps=25, split=s, source=f"{k}.mp4")
        store.skip("bad.mp4", "empty file")
        store.attributes.update(attributes or {})
    return path


def write_samples(path, seed=1, count=3, frames=16):
    attributes = {"checkpoints": json.dumps(CHECKPOINTS), "sampling": json.dumps(SAMPLING)}
    return write_store(path, [frames] * count, ["generated"] * count, seed, "generated", attributes)


@pytest.fixture
def params():
    small = {"network": {"channels": 32, "multipliers": [1, 2], "attention": [], "head_channels": 32}}
    experiment = {"dataset": "sky", "content": small, "motion": small, "metrics": {"videos": 2}}
    return config.resolve(
        {
            "model_version": 1,
            "datasets": {"sky": {"raw": "data/raw/sky", "resolution": SIDE}},
            "experiments": {"tiny": experiment},
        }
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = ["train", "test", "train", "test", "train", "train"]
    write_store(tmp_path / "frames.h5", [20, 16, 18, 17, 9, 16], splits, 0)
    write_samples(tmp_path / "samples.h5")
    return tmp_path


def test_an_evaluation_from_end_to_end(detector, params, project):
    frames, samples = project / "frames.h5", project / "samples.h5"
    text = report.evaluate(params, "tiny", frames, samples, project / "one.json")
    found = json.loads((project / "one.json").read_text())

    # The contract's keys.
    assert found["experiment"] == "tiny" and found["n"] == 2 and found["also"] == []
    assert found["protocol"]["name"] == "styleganv" and found["protocol"]["frames"] == 16
    assert set(found["baselines"]) == {"floor", "static", "self_static", "noise"}
    assert found["data"]["source"] == "procedural" and found["data"]["dropped"] == 1
    assert len(found["data"]["sha256"]) == len(found["detector"]["sha256"]) == 64
    assert found["checkpoints"] == CHECKPOINTS and found["sampling"] == SAMPLING
    assert found["comparable_with_paper"] is False
    assert found["too_short"] == {"train": 1, "test": 0, "fake": 0}
    said = " ".join(found["warnings"])
    assert "rank-deficient" in said and "embedded sky" in said and "1 videos of train are shorter" in said
    for part in (f"{found['fvd']:.2f}", "self_static", "uniform noise", "grey levels", "embedded sky"):
        assert part in text

    # The values are those of the same windows, measured as arrays.
    protocol = find("styleganv")
    with report.FrameStore(frames) as store, report.FrameStore(samples) as generated:
        train, test = (from_store(store, protocol, s) for s in ("train", "test"))
        real, held_out = (np.stack([c.read(k) for k in range(2)]) for c in (train, test))
        fakes = from_store(generated, protocol, None)
        fake = np.stack([fakes.read(k) for k in range(2)])
    still = np.repeat(fake[:, :1], 16, axis=1)
    assert found["fvd"] == pytest.approx(fvd(real, fake).value, rel=1e-4)
    assert found["baselines"]["self_static"] == pytest.approx(fvd(real, still).value, rel=1e-4)
    assert found["baselines"]["static"] > found["baselines"]["floor"]
    for name, clips in (("test", held_out), ("samples", fake)):
        steps = np.abs(np.diff(clips.astype(float), axis=1)).mean()
        assert found["motion"][name] == pytest.approx(steps, rel=1e-12)

    # A second one reads what does not depend on the model, and says the same to the byte.
    kept = sorted((project / "runs" / "features").iterdir())
    assert len(kept) == 3
    before = [p.stat().st_mtime_ns for p in kept]
    report.evaluate(params, "tiny", frames, samples, project / "two.json")
    assert (project / "two.json").read_bytes() == (project / "one.json").read_bytes()
    assert [p.stat().st_mtime_ns for p in kept] == before

    # A damaged file there is made again.
    data = bytearray(kept[0].read_bytes())
    data[-1] ^= 1
    kept[0].write_bytes(data)
    report.evaluate(params, "tiny", frames, samples, project / "two.json")
    assert (project / "two.json").read_bytes() == (project / "one.json").read_bytes()
    assert kept[0].stat().st_mtime_ns != before[0]


def test_kept_features_are_found_by_facts_only(tmp_path):
    facts = {"data": "x", "n": 2}
    arrays = {"features": np.arange(6, dtype=np.float32).reshape(2, 3)}
    Kept(facts, tmp_path).write(arrays)
    np.testing.assert_array_equal(Kept(facts, tmp_path).read()["features"], arrays["features"])
    assert Kept({"data": "y", "n": 2}, tmp_path).read() is None
    # Not even under the right name.
    Kept({"data": "y", "n": 2}, tmp_path).path.write_bytes(Kept(facts, tmp_path).path.read_bytes())
    assert Kept({"data": "y", "n": 2}, tmp_path).read() is None
    for damaged in (b"", b"\0" * 100, Kept(facts, tmp_path).path.read_bytes()[:-1]):
        Kept(facts, tmp_path).path.write_bytes(damaged)
        assert Kept(facts, tmp_path).read() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_fault(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    Kept({}, tmp_path / "runs" / "features").write({"a": np.zeros(1)})


def test_motion_is_the_mean_step():
    clip = np.zeros((3, 2, 2, 3), np.uint8)
    clip[1] = 250  # up by 250, down by 240: uint8 would wrap
    clip[2] = 10
    assert motion(clip) == pytest.approx((250 + 240) / 2)


def test_samples_that_don_t_fit_are_refused(params, project, detector):
    frames, out = project / "frames.h5", project / "out.json"
    plain = write_store(project / "plain.h5", [16, 16], ["generated"] * 2, 3)
    with pytest.raises(InputError, match=r"plain\.h5: not a store that vidm sample wrote"):
        report.evaluate(params, "tiny", frames, plain, out)
    with pytest.raises(InputError, match="no such file"):
        report.evaluate(params, "tiny", frames, project / "none.h5", out)
    (project / "text.h5").write_text("not hdf5")
    with pytest.raises(InputError, match="not a store that vidm sample wrote"):
        report.evaluate(params, "tiny", frames, project / "text.h5", out)
    short = write_samples(project / "short.h5", frames=10)
    with pytest.raises(InputError, match=r"short\.h5: 0 videos, 3 more have fewer frames"):
        report.evaluate(params, "tiny", frames, short, out)
    one = write_samples(project / "single.h5", count=1)
    with pytest.raises(InputError, match=r"single\.h5: 1 videos; an FVD needs 2"):
        report.evaluate(params, "tiny", frames, one, out)
    assert not out.exists()


def test_between_takes_stores_arrays_and_folders(detector, project):
    rng = np.random.default_rng(4)
    array = rng.integers(0, 256, (2, 16, SIDE, SIDE, 3), np.uint8)
    np.save(project / "fake.npy", array)
    text = report.between(project / "frames.h5", project / "fake.npy", "tf", project / "report.json")
    found = json.loads((project / "report.json").read_text())
    assert f"{found['fvd']:.2f}" in text and found["protocol"]["ddof"] == 1 and found["n"] == 2
    assert found["fake"]["source"] == "array" and found["data"]["too_short"] == 1
    assert report.between(project / "x", project / "y", "help").count("ddof") == 3
    for path, message in (("none.npy", "no such file or folder"), ("odd.txt", "not a .h5"), ("bad.npy", "numpy")):
        if path != "none.npy":
            (project / path).write_text("text")
        with pytest.raises(InputError, match=message):
            report.between(project / path, project / "fake.npy")
    np.save(project / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="numpy"):
        report.between(project / "objects.npy", project / "fake.npy")


def test_a_folder_of_videos_with_a_broken_one(tmp_path):
    video = pytest.importorskip("vidm.data.video")
    rng = np.random.default_rng(5)
    folder = tmp_path / "some 'videos'"
    (folder / "deeper").mkdir(parents=True)
    for k, (frames, height) in enumerate([(20, 16), (17, 24), (8, 16)]):
        clip = rng.integers(0, 256, (frames, height, 32, 3), np.uint8)
        video.encode(folder / "deeper" / f"{k}.mp4", clip, 25)
    (folder / "text.mp4").write_text("no video")
    found = open_set(folder, find("styleganv"))
    assert len(found) == 2 and found.short == 1 and found.dropped == 1
    assert sorted(found.read(k).shape for k in range(2)) == [(16, 16, 16, 3), (16, 24, 24, 3)]


def test_windows_follow_content_not_names(tmp_path):
    rng = np.random.default_rng(6)
    clips = rng.integers(0, 256, (5, 30, SIDE, SIDE, 3), np.uint8)
    protocol = find("styleganv")
    one, two = from_array(clips, protocol, "a"), from_array(clips[::-1].copy(), protocol, "b")
    assert one.sha256 == two.sha256
    with StoreWriter(tmp_path / "s.h5", SIDE, SIDE, {}, origin="raw") as store:
        for k in (3, 0, 4, 1, 2):
            store.add(clips[k], fps=25, split="train", source=f"{9 - k}.mp4")
    three = open_set(tmp_path / "s.h5", protocol, "train")
    for k in range(5):
        np.testing.assert_array_equal(one.read(k), two.read(k))
        np.testing.assert_array_equal(one.read(k), three.read(k))
    assert len({start for _, start in one.windows}) > 1
    by_name = from_array(clips, find("vidm-script"), "a")
    assert [i for i, _ in by_name.windows] == list(range(5))


def base_report(**changes):
    found = {
        "experiment": "sky",
        "fvd": 100.5,
        "protocol": find("styleganv").facts(),
        "n": 256,
        "baselines": {"floor": 50.0, "static": 90.0, "self_static": 120.0, "noise": 900.0},
        "motion": {"samples": 2.0, "test": 3.0},
        "data": {"source": "procedural", "sha256": "d" * 64, "dropped": 0},
        "detector": {"name": "i3d-kinetics-400", "sha256": "e" * 64},
        "checkpoints": CHECKPOINTS,
        "sampling": SAMPLING,
    }
    return {**found, **changes}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n": 128}, "n is 256 and 128"),
        ({"protocol": find("tf").facts()}, "protocol.ddof is 0 and 1"),
        ({"data": {"source": "raw", "sha256": "f" * 64, "dropped": 0}}, "data.sha256"),
        ({"detector": {"name": "i3d-kinetics-400", "sha256": "f" * 64}}, "detector.sha256"),
    ],
)
def test_reports_that_differ_are_not_compared(tmp_path, changes, field):
    (tmp_path / "a.json").write_text(json.dumps(base_report()))
    (tmp_path / "b.json").write_text(json.dumps(base_report(**changes)))
    with pytest.raises(InputError, match=field):
        report.compare(tmp_path / "a.json", tmp_path / "b.json")


def test_comparable_reports_side_by_side(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(base_report()))
    (tmp_path / "b.json").write_text(json.dumps(base_report(experiment="sky-paper", fvd=222.25)))
    text = report.compare(tmp_path / "a.json", tmp_path / "b.json")
    assert "sky-paper" in text and "100.50" in text and "222.25" in text and "self_static" in text
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(InputError, match="not a report"):
        report.compare(tmp_path / "a.json", tmp_path / "c.json")
    with pytest.raises(InputError, match="no such file"):
        report.compare(tmp_path / "a.json", tmp_path / "d.json")


def test_batches_do_not_mix_sets(detector, monkeypatch):
    rng = np.random.default_rng(8)
    clips = rng.integers(0, 256, (3, 16, SIDE, SIDE, 3), np.uint8)
    monkeypatch.setattr(features, "BATCH", 2)
    alone, mixed = (features.Extractor(detector, find("styleganv")) for _ in range(2))
    for k, clip in enumerate(clips):
        alone.add("a", clip)
        mixed.add("a", clip)
        if k != 1:
            mixed.add("b", clip, still=True)
    np.testing.assert_array_equal(alone.features("a"), mixed.features("a"))
    assert mixed.features("a").shape == (3, 400) and mixed.features("b").shape == (2, 400)
    assert mixed.features("missing").shape == (0, 400)
