"""An experiment's report on tiny stores: its keys, its baselines, determinism, the cache, and what is refused."""

import json
import os
import re

import numpy as np
import pytest
import torch
import yaml

from vidm import config, machine
from vidm.data.store import FrameStore, StoreWriter, first_frames_hash
from vidm.errors import InputError
from vidm.metrics import fvd, report, sources
from vidm.metrics.clipset import cut
from vidm.metrics.i3d import I3D
from vidm.metrics.kept import Kept
from vidm.metrics.measurement import Extras, Measurement, Plan, over_seeds
from vidm.metrics.protocol import find
from vidm.metrics.summary import summary
from vidm.protocols import OwnProtocol, own

CHECKPOINTS = {
    "content": {"sha256": "a" * 64, "step": 4, "ema": 0.99},
    "motion": {"sha256": "b" * 64, "step": 5, "ema": 0.99},
}
SAMPLING = {"sampler": "ddim", "steps": 3, "eta": 0.0, "precision": "bf16", "seeds": {"seed": 0, "videos": [0, 2]}}
SIDE = 12


def write_store(path, lengths, split, seed, origin="procedural", attributes=None, clips=None):
    rng = np.random.default_rng(seed)
    with StoreWriter(path, SIDE, SIDE, {}, origin=origin) as store:
        for k, (length, s) in enumerate(zip(lengths, split, strict=True)):
            clip = rng.integers(0, 256, (length, SIDE, SIDE, 3), np.uint8) if clips is None else clips[k]
            store.add(clip, fps=25, split=s, source=f"{k}.mp4")
        store.skip("bad.mp4", "empty file")
        store.attributes.update(attributes or {})
    return path


def write_samples(path, seed=1, count=3, frames=16, seeds=SAMPLING["seeds"], clips=None, **more):
    sampling = SAMPLING | {"seeds": seeds} | more
    attributes = {"checkpoints": CHECKPOINTS, "sampling": sampling, "experiment": "tiny"}
    attributes = {key: json.dumps(value) for key, value in attributes.items()}
    return write_store(path, [frames] * count, ["generated"] * count, seed, "generated", attributes, clips)


SMALL = {"network": {"channels": 32, "multipliers": [1, 2], "attention": [], "head_channels": 32}}
DOCUMENT = {
    "model_version": 1,
    "datasets": {"sky": {"raw": "data/raw/sky", "resolution": SIDE}},
    "experiments": {"tiny": {"dataset": "sky", "content": SMALL, "motion": SMALL, "metrics": {"videos": 2}}},
}


@pytest.fixture
def params():
    return config.resolve(DOCUMENT)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = ["train", "test", "train", "test", "train", "train"]
    write_store(tmp_path / "frames.h5", [20, 16, 18, 17, 9, 16], splits, 0)
    write_samples(tmp_path / "samples.h5")
    return tmp_path


def test_an_evaluation_from_end_to_end(detector, params, project):
    frames, samples = project / "frames.h5", project / "samples.h5"
    picture = project / "figures" / "nearest.png"
    text = report.evaluate(params, "tiny", frames, samples, project / "one.json", pairs=picture)
    found = json.loads((project / "one.json").read_text())

    # The contract's keys.
    assert found["experiment"] == "tiny" and found["n"] == 2 and found["also"] == []
    assert found["protocol"]["name"] == "styleganv" and found["protocol"]["frames"] == 16
    assert set(found["baselines"]) == {"floor", "static", "shuffled", "self_static", "noise"}
    assert found["data"]["source"] == "procedural" and found["data"]["dropped"] == 1
    assert found["data"]["dropped_why"] == {"empty file": 1} and found["data"]["fps"] == 25
    assert len(found["data"]["sha256"]) == len(found["detector"]["sha256"]) == 64
    assert found["checkpoints"] == CHECKPOINTS and found["sampling"] == SAMPLING
    assert found["comparable_with_paper"] is False
    assert found["too_short"] == {"real": 1, "held": 0, "fake": 0}
    assert "motion_only" not in found and {len(ratios) for ratios in found["over_time"].values()} == {16}
    said = " ".join(found["warnings"])
    assert "rank-deficient" in said and "embedded sky" in said and "1 videos of real are shorter" in said
    assert "given" not in said
    for part in (f"{found['fvd']:.2f}", "self_static", "uniform noise", "grey levels", "embedded sky"):
        assert part in text

    # The values are those of the same windows, measured as arrays.
    protocol = find("styleganv")
    with report.FrameStore(frames) as store, report.FrameStore(samples) as generated:
        train, test = (cut(sources.from_store(store, s), protocol) for s in ("train", "test"))
        real, held_out = (np.stack([c.read(k) for k in range(2)]) for c in (train, test))
        fakes = cut(sources.from_store(generated, None), protocol)
        fake = np.stack([fakes.read(k) for k in range(2)])
    still = np.repeat(fake[:, :1], 16, axis=1)
    assert found["fvd"] == pytest.approx(fvd(real, fake).value, rel=1e-4)
    assert found["baselines"]["self_static"] == pytest.approx(fvd(real, still).value, rel=1e-4)
    assert found["baselines"]["static"] > found["baselines"]["floor"]
    for name, clips in (("test", held_out), ("samples", fake)):
        steps = np.abs(np.diff(clips.astype(float), axis=1)).mean()
        assert found["motion"][name] == pytest.approx(steps, rel=1e-12)
    steps = [np.abs(np.diff(clips.astype(float), axis=1)).mean((0, 2, 3, 4)) for clips in (fake, held_out)]
    assert found["over_time"]["motion"][0] is None
    assert found["over_time"]["motion"][1:] == pytest.approx((steps[0] / steps[1]).tolist(), rel=1e-12)

    # A second one reads what does not depend on the model, and says the same to the byte.
    kept = sorted((project / "runs" / "features").iterdir())
    assert len(kept) == 9  # features of 3 sets and of 4 baselines' clips, and 2 over time
    before = [p.stat().st_mtime_ns for p in kept]
    report.evaluate(params, "tiny", frames, samples, project / "two.json", pairs=picture)
    assert (project / "two.json").read_bytes() == (project / "one.json").read_bytes()
    assert [p.stat().st_mtime_ns for p in kept] == before

    # A damaged file there is made again, and no other.
    data = bytearray(kept[0].read_bytes())
    data[-1] ^= 1
    kept[0].write_bytes(data)
    report.evaluate(params, "tiny", frames, samples, project / "two.json", pairs=picture)
    assert (project / "two.json").read_bytes() == (project / "one.json").read_bytes()
    assert kept[0].stat().st_mtime_ns != before[0]


def changed(params, more=None, **facts):
    """The parameters with other facts of metrics. more: protocols of their own."""
    e = params.experiment("tiny")
    metrics = e.metrics.model_copy(update=facts)
    experiments = {"tiny": e.model_copy(update={"metrics": metrics})}
    return params.model_copy(update={"experiments": experiments, "protocols": more or {}})


@pytest.mark.parametrize(("split", "held"), [("train", "test"), ("test", "train"), ("all", None)])
def test_the_leak_check_is_against_train_whatever_split_is_real(detector, params, project, split, held):
    """Samples that copy a training clip are found out; what is called test is of that split."""
    frames, out, rules = project / "frames.h5", project / "out.json", own("mine", OwnProtocol(split=split))
    with report.FrameStore(frames) as store:
        copy = store.read(5)
        test = cut(sources.from_store(store, "test"), rules)
        step = np.mean([np.abs(np.diff(test.read(k).astype(float), axis=0)).mean() for k in range(2)])
    write_samples(project / "copies.h5", count=2, clips=[copy, copy ^ 1], given={"frames": 4, "sha256": "c" * 64})

    def evaluated(among):
        facts = changed(params, {"mine": rules}, protocols=("mine",), nearest_among=among)
        text = report.evaluate(facts, "tiny", frames, project / "copies.h5", out, pairs=project / "nearest.png")
        return json.loads(out.read_text()), text

    found, text = evaluated("all")
    near = found["nearest"]
    assert near["among"] == near["of"] == 3 and near["test_median"] > 0
    assert [s["train"] for s in near["samples"]] == ["5.mp4"] * 2 and near["samples"][0]["ratio"] < 0.01
    assert found["motion"]["test"] == pytest.approx(step, rel=1e-12) and f"test clips {step:.2f} grey" in text
    assert found["held_out"] == held and sum("that were given" in w for w in found["warnings"]) == 1
    real = f"{held} clips" if held else "real videos held out"
    assert re.search(rf"^static .* {real}, first frame repeated$", text, re.M)
    assert evaluated("measured")[0]["nearest"]["among"] == 2


@pytest.fixture
def begun(tmp_path, vidm):
    """`vidm evaluate` in a project whose first test clip is shorter than a window; call it with other given clips."""
    write_store(
        tmp_path / "frames.h5", [20, 12, 18, 17, 20, 16], ["train", "test", "train", "test", "test", "train"], 0
    )
    write_samples(tmp_path / "samples.h5")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(DOCUMENT), encoding="utf-8")
    with FrameStore(tmp_path / "frames.h5") as store:
        clips = [store.read(k, 0, min(16, store.length(k))) for k in store.indices("test")]
        sha256 = first_frames_hash(1, [store.hashes[k] for k in store.indices("test")])
    clips[0] = np.full((16, SIDE, SIDE, 3), 255, np.uint8)  # what was made of the short one is not measured

    def run(change=lambda clip: clip, checkpoints=CHECKPOINTS, **more):
        changed = [change(clip) for clip in clips]
        sampling = SAMPLING | {"given": {"frames": 1, "sha256": sha256}} | more
        sampling = {key: value for key, value in sampling.items() if value is not None}
        notes = {"checkpoints": {"motion": checkpoints["motion"]}, "sampling": sampling, "experiment": "tiny"}
        notes = {key: json.dumps(value) for key, value in notes.items()}
        write_store(tmp_path / "given.h5", [16] * 3, ["generated"] * 3, 0, "generated", notes, changed)
        stores = ("--frames", "frames.h5", "--samples", "samples.h5", "--given", "given.h5")
        ended = vidm("evaluate", "tiny", "--params", "params.yaml", *stores, "--out", "out.json", cwd=tmp_path)
        found = tmp_path / "out.json"
        return ended, json.loads(found.read_text(encoding="utf-8")) if found.exists() else None

    run.sha256 = sha256
    return run


def test_motion_by_itself(detector, begun):
    """Test clips in the place of the given ones are the floor; those that stand still are the static ones."""
    ended, found = begun()
    assert ended.returncode == 0, ended.stderr
    apart = found["motion_only"]
    assert set(apart) == {"n", "fvd", "static", "floor", "over_time", "given"}
    assert apart["n"] == found["n"] == 2 and apart["given"] == {"frames": 1, "sha256": begun.sha256}
    assert apart["fvd"] == pytest.approx(apart["floor"], rel=1e-6) and apart["static"] > apart["floor"]
    assert apart["over_time"] == dict.fromkeys(("sharpness", "contrast", "mean"), [1.0] * 16) | {
        "motion": [None, *[1.0] * 15]
    }
    assert not any("first frames given" in text for text in found["warnings"])
    for name, value in (("", apart["fvd"]), (".static", apart["static"]), (".floor", apart["floor"])):
        assert re.search(rf"^motion_only{re.escape(name)} +{value:.2f} ", ended.stdout, re.M)
    assert re.search(r"^frame 15 over that of test clips: sharpness \d", ended.stdout, re.M)
    assert "real first frames given, frame 15 over that of test clips: sharpness 1.00, contrast 1.00" in ended.stdout
    compared = report.compare("out.json", "out.json")
    assert re.search(r"^motion_only\.floor +\S+ +\S+$", compared, re.M) and "contrast of frame 15" in compared

    ended, found = begun(lambda clip: np.repeat(clip[:1], 16, 0) // 2)
    apart = found["motion_only"]
    assert apart["over_time"]["motion"] == [None, *[0.0] * 15]
    said = "with real first frames given, motion of frame 15 is 0.00 of that of the test clips"
    assert said in found["warnings"] and f"note: {said}" in ended.stdout
    _, found = begun(lambda clip: np.repeat(clip[:1], 16, 0))
    assert found["motion_only"]["fvd"] == pytest.approx(apart["static"], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"given": None}, "given.h5: its videos do not begin with given frames; make it again by vidm sample --first "),
        ({"given": {"frames": 1, "sha256": "0" * 64}}, "its first frames are not those of the test clips of frames.h5"),
        (
            {"checkpoints": CHECKPOINTS | {"motion": {"sha256": "c" * 64, "step": 5, "ema": 0.99}}},
            "given.h5: its motion network is cccccccccccc, that of samples.h5 is bbbbbbbbbbbb; make it again",
        ),
        ({"steps": 9, "motions": 2}, "given.h5: sampled with another motions, steps than samples.h5; make it again"),
    ],
)
def test_given_videos_of_something_else_are_refused(begun, change, said):
    ended, found = begun(**change)
    assert ended.returncode == 2 and found is None
    assert said in ended.stderr and ended.stderr.count("\n") == 1


def test_samples_of_several_seeds(detector, params, project):
    """Value by value those of each seed's videos, and of longer ones the first frames; the rest is the first seed's."""
    seeds = {"seed": 0, "videos": [0, 5], "seeds": [0, 9], "each": 3}
    samples = write_samples(project / "several.h5", count=6, frames=20, seeds=seeds)
    e = params.experiment("tiny")
    metrics = e.metrics.model_copy(update={"shuffled": False, "self_static": False})
    params = params.model_copy(update={"experiments": {"tiny": e.model_copy(update={"metrics": metrics})}})
    text = report.evaluate(params, "tiny", project / "frames.h5", samples, project / "out.json")
    found = json.loads((project / "out.json").read_text())
    with report.FrameStore(project / "frames.h5") as store, report.FrameStore(samples) as generated:
        train = cut(sources.from_store(store, "train"), find("styleganv"))
        real = np.stack([train.read(k) for k in range(2)])
        every = [generated.read(k)[:16] for k in range(6)]
        order = sorted(range(6), key=lambda k: generated.hashes[k])
    taken = [[every[k] for k in order if k // 3 == seed][:2] for seed in (0, 1)]
    values = [fvd(real, np.stack(fakes)).value for fakes in taken]
    assert found["seeds"]["values"] == pytest.approx(values, rel=1e-4)
    assert found["fvd"] == found["seeds"]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
    assert found["seeds"]["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert found["seeds"]["motion"]["values"][0] == found["motion"]["samples"]
    assert len(found["seeds"]["kvd"]["values"]) == 2 and found["seeds"]["kvd"]["values"][0] == found["kvd"]
    assert set(found["baselines"]) == {"floor", "static", "noise"} and found["n"] == 2
    assert f"{found['seeds']['std']:.2f} over 2 seeds" in text and "standard error" not in text
    assert f"KVD {found['seeds']['kvd']['mean']:.2f} +- " in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_fault(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    Kept({}, tmp_path / "runs" / "features").write({"a": np.zeros(1)})


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
    with pytest.raises(InputError, match=r"short\.h5: 0 videos, 3 more have fewer frames than the 16 of protocol"):
        report.evaluate(params, "tiny", frames, short, out)
    one = write_samples(project / "single.h5", count=1)
    with pytest.raises(InputError, match=r"single\.h5: 1 videos .*a covariance, and so an FVD, needs 2 or more"):
        report.evaluate(params, "tiny", frames, one, out)
    samples = project / "samples.h5"
    twin = params.experiments["tiny"].model_copy(update={"name": "twin"})
    both = params.model_copy(update={"experiments": params.experiments | {"twin": twin}})
    with pytest.raises(InputError, match=r"samples\.h5: videos of 'tiny', not of 'twin'"):
        report.evaluate(both, "twin", frames, samples, out)
    large = params.datasets["sky"].model_copy(update={"resolution": 2 * SIDE})
    with pytest.raises(InputError, match=r"frames\.h5: frames are 12 pixels, datasets\.sky\.resolution is 24"):
        report.evaluate(params.model_copy(update={"datasets": {"sky": large}}), "tiny", frames, samples, out)
    assert not out.exists()


def test_a_baseline_that_can_t_be_is_named(detector, project):
    """Four real videos of sixteen frames: two beside two can be held out, none beside four."""
    real, fake = (np.random.default_rng(k).integers(0, 256, (4, 16, SIDE, SIDE, 3), np.uint8) for k in (0, 1))
    np.save(project / "real.npy", real)
    np.save(project / "fake.npy", fake)
    paths = project / "real.npy", [project / "fake.npy"]
    text = report.between(*paths, baselines=True)
    assert "real.npy has 4 videos, and 4 held out beside the 4 measured are 8; give more, or measure 2" in text
    assert not re.search(r"^floor", text, re.M)
    text = report.between(*paths, baselines=True, videos=2)
    assert re.search(r"^floor .* real videos held out$", text, re.M) and "no floor" not in text


def test_baselines_of_clips_with_several_windows(project):
    """Of no clip that is measured too, and where there are not enough such clips there are none."""
    rng, digan = np.random.default_rng(0), find("digan")
    several, single = (rng.integers(0, 256, (20, frames, 2, 2, 3), np.uint8) for frames in (320, 16))
    model, plan = torch.nn.Linear(1, 1), Plan(torch.device("cpu"), None)
    model.sha256, model.precision = "0" * 64, "fp32"
    sets = {name: cut(sources.from_arrays(v, name), digan) for name, v in (("real", several), ("fake", single))}
    held = sets | {"held": cut(sources.from_arrays(several[::-1].copy(), "held"), digan)}

    def measured(sets, n):
        part = Measurement(digan, sets, n, model, Extras(baselines=True), plan)
        used = [{part.sets["real"].windows[k][0].index for k in rows} for rows in (part.trials[0][0], part.held_rows)]
        return part, *used

    part, _, others = measured(held, 20)
    assert part.others["floor"].rows == part.held_rows and len(others) > 10
    part, clips, others = measured(sets, 10)
    assert part.others["static"].rows == part.held_rows and not clips & others and len(part.held_rows) == 10
    part, *_ = measured(sets | {"fake": sets["real"]}, 200)
    assert "floor" not in part.others
    said = "real has 20 videos, and those with no measured window have fewer than 200; give more"
    assert any(said in text for text in part.cautions())
    assert [len(set(rows)) for rows in part._clips()] == [20, 20] and len(part._clips()[0]) == 200


def test_between_takes_stores_arrays_and_folders(detector, project):
    rng = np.random.default_rng(4)
    array = rng.integers(0, 256, (2, 16, SIDE, SIDE, 3), np.uint8)
    np.save(project / "fake.npy", array)
    text = report.between(project / "frames.h5", [project / "fake.npy"], ["tf"], json=project / "report.json")
    found = json.loads((project / "report.json").read_text())
    assert f"{found['fvd']:.2f}" in text and found["protocol"]["ddof"] == 1 and found["n"] == 2
    assert found["fake"]["source"] == "array" and found["too_short"]["real"] == 1
    assert report.between(project / "x", [project / "y"], ["help"]).count("ddof") == 7
    for path, message in (("none.npy", "no such file or folder"), ("odd.txt", "not a .h5"), ("bad.npy", "numpy")):
        if path != "none.npy":
            (project / path).write_text("text")
        with pytest.raises(InputError, match=message):
            report.between(project / path, [project / "fake.npy"])
    np.save(project / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="numpy"):
        report.between(project / "objects.npy", [project / "fake.npy"])


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


def test_every_field_that_differs_is_named_and_force_says_so(tmp_path):
    protocol = {**find("styleganv").facts(), "stride": 8, "ddof": 1}
    other = base_report(protocol=protocol, n=64, fvd=7.5)
    other["detector"] = {**other["detector"], "precision": "bf16"}
    (tmp_path / "a.json").write_text(json.dumps(base_report()))
    (tmp_path / "b.json").write_text(json.dumps(other))
    fields = ["detector.precision", "n is 256 and 64", "protocol.ddof is 0 and 1", "protocol.stride is 1 and 8"]
    with pytest.raises(InputError) as caught:
        report.compare(tmp_path / "a.json", tmp_path / "b.json")
    forced = report.compare(tmp_path / "a.json", tmp_path / "b.json", force=True)
    for field in fields:
        assert field in str(caught.value) and field in forced
    assert "protocol.kernel" not in str(caught.value) and "\n" not in str(caught.value)
    assert forced.startswith("WARNING: these numbers can't be compared") and "7.50" in forced
    assert "WARNING" not in report.compare(tmp_path / "a.json", tmp_path / "a.json", force=True)


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


def test_of_several_seeds_means_stand_beside_means(tmp_path):
    """What is of the first seed alone is left out, or said to be."""
    interval = {"standard_error": 5.0, "low": 390.0, "high": 410.0}
    found = []
    for value, fid in ((400.0, 20.0), (500.0, 40.0)):
        further = {"kvd": value / 10, "fid": {"value": fid, "frames": 9}, "kid": {"mean": 0.1, "std": 0.01}}
        further |= {"motion": {"samples": fid, "test": 3.0}, "interval": interval, "trials": {"values": [1.0]}}
        found.append(base_report(fvd=value, **further))
    several = found[0] | over_seeds(found)
    text = summary(several)
    assert re.search(r"^sky +450\.00 +70\.71 over 2 seeds$", text, re.M)
    assert "FID 30.00 +- 14.14; KID of the first seed 0.1000" in text and "motion: samples 30.00 +- 14.14" in text
    assert "samples of the first seed, first frame repeated" in text and "KVD 45.00 +- 7.07" in text
    assert "standard error 5.00" in summary(found[0]) and "first seed" not in summary(found[0])
    for name, content in (("a", several), ("b", found[0])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = [line.split() for line in report.compare(tmp_path / "a.json", tmp_path / "b.json").splitlines()]
    for row in (["fid", "30.00", "20.00"], ["fvd", "standard", "error", "-", "5.00"], ["kid", "0.10", "0.10"]):
        assert row in rows
    assert ["motion.samples", "30.00", "20.00"] in rows and ["kvd", "45.00", "40.00"] in rows


def counted(monkeypatch):
    """How many windows were read, and how many clips went through the detector."""
    counts = {"read": 0, "detected": 0}
    read, forward = sources.Source.__init__, I3D.forward

    def init(self, *arguments, **named):
        inner = named["read"]
        named["read"] = lambda *a: counts.update(read=counts["read"] + 1) or inner(*a)
        read(self, *arguments, **named)

    def run(self, x):
        counts["detected"] += len(x)
        return forward(self, x)

    monkeypatch.setattr(sources.Source, "__init__", init)
    monkeypatch.setattr(I3D, "forward", run)
    return counts


def test_several_protocols_and_seeds_in_one_pass(detector, project, monkeypatch, capsys):
    """One decode for all; a protocol that differs in its statistics alone needs no features of its own."""
    rng = np.random.default_rng(7)
    real = rng.integers(0, 256, (4, 16, SIDE, SIDE, 3), np.uint8)
    fakes = rng.integers(60, 200, (2, 2, 16, SIDE, SIDE, 3), np.uint8)
    for name, array in (("real", real), ("one", fakes[0]), ("two", fakes[1])):
        np.save(project / f"{name}.npy", array)
    paths = project / "real.npy", [project / "one.npy", project / "two.npy"]
    more = {"mine": own("mine", OwnProtocol(ddof=1))}
    counts = counted(monkeypatch)

    def measured(*protocols, **options):
        counts.update(read=0, detected=0)
        out = project / "out.json"
        text = report.between(*paths, protocols, more=more, json=out, **options)
        return json.loads(out.read_text()), text

    found, text = measured("styleganv", "mine", cache=project / "cache")
    assert counts == {"read": 6, "detected": 6}, "2 real clips and 2 + 2 fakes, once each"
    (mine,) = found["also"]
    assert mine["protocol"]["name"] == "mine" and mine["fvd"] > found["fvd"]
    seeds = found["seeds"]
    assert seeds["mean"] == found["fvd"] == pytest.approx(np.mean(seeds["values"])) and seeds["std"] > 0
    assert len(seeds["fakes"]) == 2 and "over 2 seeds" in text
    assert found["data"]["id"] == "real.npy" and len(found["versions"]["code"]) == 64
    values = [fvd(real, fake).value for fake in fakes]
    assert seeds["values"] == pytest.approx(values, rel=1e-4)

    again, _ = measured("styleganv", "mine", cache=project / "cache")
    assert counts == {"read": 0, "detected": 0} and again == found

    # Other pixels, another detector input or another precision are never answered from there.
    measured("vidm-script", cache=project / "cache")
    assert counts["detected"] == 6
    computes = machine.has_bf16("cpu")
    monkeypatch.setattr(machine, "has_bf16", lambda kind: False)
    exact, _ = measured("styleganv", cache=project / "cache", fast=True)
    assert exact["detector"]["precision"] == "fp32" and "--fast is left out" in capsys.readouterr().err
    if computes:  # a CPU without AVX-512 only imitates bf16: a quarter of an hour for these clips
        monkeypatch.setattr(machine, "has_bf16", lambda kind: True)
        fast, text = measured("styleganv", cache=project / "cache", fast=True)
        assert counts["detected"] == 6 + 2, "and 2 clips again in full precision, for the error"
        assert 0 < fast["fast"]["relative_error_of_logits"] < 0.05 and "bf16" in text
        assert fast["detector"]["precision"] == "bf16" and any("bf16" in w for w in fast["warnings"])
    real[0, 3, 2, 1] ^= 1
    np.save(project / "real.npy", real)
    measured("styleganv", cache=project / "cache")
    assert counts["detected"] >= 1
