"""`vidm sample` as a user sees it: what it leaves, shards, going on after a kill, what it refuses."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidm.config import Experiment
from vidm.data.store import FrameStore, StoreWriter
from vidm.errors import InputError
from vidm.machine import precision
from vidm.models import trained
from vidm.sampling import groups, run
from vidm.sampling.export import provenance_of
from vidm.sampling.noise import label_of
from vidm.sampling.plan import Wish
from vidm.sampling.rollout import Rollout


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs/ is made in it


@pytest.fixture(scope="module")
def models(params, store, tmp_path_factory):
    """Content and motion network of the experiment `dots`: 16 pixels, a grid of 4 frames."""
    from vidm.training import content, motion

    folder = tmp_path_factory.mktemp("models")
    content.train(params, "dots", store, folder / "c.safetensors", folder / "runs")
    motion.train(params, "dots", store, folder / "m.safetensors", folder / "runs")
    return folder / "c.safetensors", folder / "m.safetensors"


def changed(params, **sampling):
    """The same experiment with other facts of sampling; two videos a batch, and a group."""
    e = params.experiment("dots")
    facts = e.sampling.model_dump() | {"videos": 5, "batch": 2, "group": 2} | sampling
    e = Experiment.model_validate(e.model_dump() | {"sampling": facts})
    return params.model_copy(update={"experiments": {"dots": e}})


def read(path):
    with FrameStore(path) as store:
        return np.stack([store.read(i) for i in range(len(store))])


def test_what_is_left(params, models, tmp_path):
    a = tmp_path / "a"
    a.mkdir()
    (a / "video_007.mp4").touch()  # of an earlier run with a longer sheet
    for name in ("a", "b"):
        run.sample(params, "dots", *models, tmp_path / name)
    assert {p.name for p in a.iterdir()} == {"samples.h5", "video_000.mp4", "contact_sheet.png", "preview.webp"}
    with FrameStore(a / "samples.h5") as one, FrameStore(tmp_path / "b" / "samples.h5") as two:
        assert one.sha256 == two.sha256
        assert (len(one), one.length(0), one.origin) == (2, 4, "generated")
    assert not list(Path("runs").rglob("*.h5")), "groups are dropped when all is there"
    sampling = groups.notes(a / "samples.h5")["sampling"]
    assert {"sampler", "steps", "eta", "seeds"} <= sampling.keys()
    assert sampling["precision"] == precision(torch.device("cpu"), params.experiment("dots").sampling.precision)
    assert sampling["seeds"] == {"seed": 0, "videos": [0, 1]}


def test_shards_make_the_same_videos_and_go_on_after_a_kill(params, models, tmp_path, monkeypatch, capfd):
    params = changed(params)
    run.sample(params, "dots", *models, tmp_path / "whole")
    out = tmp_path / "shards"
    real, made = Rollout.videos, []

    def videos(self, noises, *arguments):
        made.append([v.video for v in noises])
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(self, noises, *arguments)

    monkeypatch.setattr(Rollout, "videos", videos)
    with pytest.raises(KeyboardInterrupt):
        run.sample(params, "dots", *models, out, Wish(shard=(2, 2)))
    assert not out.exists() or not list(out.glob("shard*"))
    run.sample(params, "dots", *models, out, Wish(shard=(2, 2)))
    assert made == [[2, 3], [4], [4]]
    run.sample(params, "dots", *models, out, Wish(shard=(1, 2)))
    assert made[3:] == [[0, 1]]
    assert "3 of all shards' 5 videos" in capfd.readouterr().err
    shards = sorted(out.iterdir(), reverse=True)  # their order does not matter
    assert [p.name for p in shards] == ["shard_2_of_2.h5", "shard_1_of_2.h5"]
    run.gather(params, "dots", shards, tmp_path / "gathered")
    assert not list(Path("runs").rglob("*.done"))
    with FrameStore(tmp_path / "whole" / "samples.h5") as a, FrameStore(tmp_path / "gathered" / "samples.h5") as b:
        assert a.sources == b.sources == [f"seed 0 video {k}" for k in range(5)]
    whole, gathered = (read(tmp_path / name / "samples.h5").astype(int) for name in ("whole", "gathered"))
    assert np.abs(whole - gathered).max() <= 1
    about = [groups.notes(tmp_path / name / "samples.h5") for name in ("whole", "gathered")]
    assert about[0] == about[1]
    assert (tmp_path / "gathered" / "contact_sheet.png").exists()


def test_videos_of_several_seeds_are_those_of_each(params, models, tmp_path):
    """One row of numbers, seed after seed, so that groups and shards cut it as any other."""
    each = changed(params, videos=3)
    for seed in (0, 4):
        run.sample(each, "dots", *models, tmp_path / f"seed {seed}", Wish(seed=seed))
    both = changed(params, videos=3, seeds=(0, 4), group=3, shards=2)
    run.sample(both, "dots", *models, tmp_path / "both")
    whole = read(tmp_path / "both/samples.h5")
    assert np.array_equal(whole, np.concatenate([read(tmp_path / f"seed {seed}/samples.h5") for seed in (0, 4)]))
    seeds = groups.notes(tmp_path / "both/samples.h5")["sampling"]["seeds"]
    assert seeds == {"seed": 0, "videos": [0, 5], "seeds": [0, 4], "each": 3}
    with FrameStore(tmp_path / "both/samples.h5") as store:
        assert list(store.sources)[2:4] == ["seed 0 video 2", "seed 4 video 0"]
    files = [tmp_path / "shards" / f"shard_{k}_of_2.h5" for k in (1, 2)]
    for k in (1, 2):
        run.sample(both, "dots", *models, tmp_path / "shards", Wish(shard=(k, 2)))
    with pytest.raises(InputError, match=r"shard_1_of_2.h5: of a run of 6 videos, given are 3; give every shard"):
        run.gather(both, "dots", files[:1], tmp_path / "joined")
    run.gather(both, "dots", files, tmp_path / "joined")
    assert np.array_equal(read(tmp_path / "joined/samples.h5"), whole)


def test_an_experiment_says_how_long_its_videos_are(params, models, tmp_path):
    """Longer ones begin as the others do: by a clamped grid a frame depends on nothing after it."""
    for name, facts in (("short", {}), ("long", {"frames": 6, "time_grid": "clamp"})):
        run.sample(changed(params, videos=2, **facts), "dots", *models, tmp_path / name)
    short, long = (read(tmp_path / name / "samples.h5") for name in ("short", "long"))
    assert long.shape[1] == 6 and np.array_equal(long[:, :4], short)
    sampling = [groups.notes(tmp_path / name / "samples.h5")["sampling"] for name in ("short", "long")]
    assert sampling[1] == sampling[0] | {"frames": 6, "time_grid": "clamp"}
    with pytest.raises(InputError, match="knows 4 frames"):
        run.sample(changed(params, frames=6), "dots", *models, tmp_path / "none")


def test_shards_are_even_and_leave_nothing_out():
    parts = [groups.shard(2048, k, 7) for k in range(1, 8)]
    assert [v for part in parts for v in part] == list(range(2048))
    assert {len(part) for part in parts} == {292, 293}
    assert groups.cut(range(3, 10), 3) == [range(3, 6), range(6, 9), range(9, 10)]


def test_a_short_call_leaves_the_groups_of_a_long_one(params, models, tmp_path):
    """The number of videos is not in the run's hash, so that both have one folder."""
    params = changed(params)
    run.sample(params, "dots", *models, tmp_path / "long", Wish(shard=(2, 2)))
    (folder,) = Path("runs/dots").iterdir()
    left = {folder / name for name in ("000000-000001.h5", ".000006-000007.h5.1-a.tmp", "000002-000003.done")}
    for path in left:
        path.touch()  # a group of a killed call, one being written, and one of another shard
    run.sample(params, "dots", *models, tmp_path / "short", Wish(videos=1))
    assert set(folder.iterdir()) == left | {folder / "000004-000004.done"}
    run.sample(params, "dots", *models, tmp_path / "short", Wish(videos=3))
    assert set(folder.iterdir()) == left - {folder / "000000-000001.h5"} | {folder / "000004-000004.done"}
    (writing,) = folder.glob(".*.tmp")
    os.utime(writing, (0, 0))  # of a process that is long gone
    run.sample(params, "dots", *models, tmp_path / "short", Wish(videos=3))
    assert not writing.exists()


def test_shards_that_do_not_fit_together(params, models, tmp_path):
    params = changed(params, videos=3)
    one, two = tmp_path / "1", tmp_path / "2"
    run.sample(params, "dots", *models, one, Wish(shard=(1, 3)))
    run.sample(params, "dots", *models, two, Wish(shard=(3, 3)))
    shards = [one / "shard_1_of_3.h5", two / "shard_3_of_3.h5"]
    with pytest.raises(InputError, match=r"shard_3_of_3.h5: before it videos 1..1 are missing"):
        run.gather(params, "dots", shards, tmp_path / "o")
    with pytest.raises(InputError, match=r"shard_1_of_3.h5: of a run of 3 videos, given are 1; give every shard"):
        run.gather(params, "dots", shards[:1], tmp_path / "o")
    with pytest.raises(InputError, match="videos are there twice"):
        run.gather(params, "dots", [*shards, shards[0]], tmp_path / "o")
    run.sample(params, "dots", *models, two, Wish(shard=(2, 3), seed=1))
    with pytest.raises(InputError, match="other settings, weights or seed"):
        run.gather(params, "dots", [*shards, two / "shard_2_of_3.h5"], tmp_path / "o")


@pytest.mark.parametrize("videos", [2, 6])
def test_a_run_is_as_many_videos_as_its_call_asked(params, models, tmp_path, videos):
    """Whatever the experiment's number is. A file of an earlier version doesn't say how many they were."""
    params = changed(params, videos=3)
    for k in (1, 2):
        run.sample(params, "dots", *models, tmp_path, Wish(videos=videos, shard=(k, 2)))
    shards = sorted(tmp_path.glob("*.h5"))
    with pytest.raises(InputError, match=f"of a run of {videos} videos, given are {videos // 2}"):
        run.gather(params, "dots", shards[:1], tmp_path / "o")
    run.gather(params, "dots", shards, tmp_path / "o")
    assert len(read(tmp_path / "o" / "samples.h5")) == videos
    for path in shards:
        with h5py.File(path, "a") as file:
            del file.attrs["total"]
    if videos < 3:
        with pytest.raises(InputError, match=r"ends with video 1, experiments.dots.sampling.videos is 3; give every"):
            run.gather(params, "dots", shards, tmp_path / "o")
    else:
        run.gather(params, "dots", shards, tmp_path / "o")


def test_shards_of_another_experiment(params, models, tmp_path):
    """They are refused; those of an experiment that params.yaml does not have are of pretrained weights."""
    run.sample(params, "dots", *models, tmp_path / "shards", Wish(shard=(1, 1)))
    shards = list((tmp_path / "shards").iterdir())
    with pytest.raises(InputError, match=r"shard_1_of_1.h5: videos of 'dots', not of 'other'; name that, or sample"):
        run.gather(params, "other", shards, tmp_path / "o")
    own = params.model_copy(update={"experiments": {"other": params.experiment("other")}})
    run.gather(own, "other", shards, tmp_path / "o")
    assert groups.notes(tmp_path / "o" / "samples.h5")["experiment"] == "dots"
    assert provenance_of(tmp_path / "o" / "preview.webp")["experiment"] == "dots"
    assert not list(Path("runs").rglob("*.done"))


def test_several_motions_of_given_frames(params, models, store, tmp_path, capsys):
    """Three videos of the first image, three of the second; then all go on, beyond the grid."""
    params, pictures = changed(params, videos=6, batch=4, group=6), tmp_path / "pictures"
    pictures.mkdir()
    with FrameStore(store) as clips:
        first = [clips.frame(k, 0) for k in (0, 1)]
    for k, frame in enumerate(first):
        Image.fromarray(frame).save(pictures / f"{k}.png")
    run.sample(params, "dots", None, models[1], tmp_path / "a", Wish(first=pictures, motions=3))
    made = read(tmp_path / "a" / "samples.h5")
    assert made.shape[:2] == (6, 4)
    assert all(np.array_equal(made[k, 0], first[k // 3]) for k in range(6))
    assert all(not np.array_equal(made[k, 1], made[k + 1, 1]) for k in range(5))
    about = groups.notes(tmp_path / "a" / "samples.h5")
    assert about["checkpoints"].keys() == {"motion"} and about["sampling"]["motions"] == 3
    run.sample(params, "dots", Path("none"), models[1], tmp_path / "c", Wish(first=pictures, motions=3))
    assert groups.notes(tmp_path / "c" / "samples.h5") == about, "a content network would have made nothing"
    assert capsys.readouterr().err.count("--content none is not used, as first frames are given") == 1

    wish = Wish(further=tmp_path / "a" / "samples.h5", frames=6, beyond="stretch", videos=2)
    run.sample(params, "dots", *models, tmp_path / "b", wish)
    longer = read(tmp_path / "b" / "samples.h5")
    assert longer.shape[:2] == (2, 6)
    assert np.array_equal(longer[:, :4], made[:2])
    about = groups.notes(tmp_path / "b" / "samples.h5")
    assert about["checkpoints"].keys() == {"motion"} and about["sampling"]["time_grid"] == "stretch"


def test_another_size_with_given_frames(params, models, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(pictures / "a.jpg")
    run.sample(params, "dots", None, models[1], tmp_path / "a", Wish(first=pictures, size=24))
    assert read(tmp_path / "a" / "samples.h5").shape == (1, 4, 24, 24, 3)


def test_photographs_as_first_frames(params, models, tmp_path):
    """Of any size and shape, and turned by the camera: the centre, scaled by area."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    grey = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32) * 37 % 251
    grey = np.repeat(np.pad(grey, ((0, 0), (10, 6)))[..., None], 3, axis=2).astype(np.uint8)  # 48 x 32
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned clockwise
    Image.fromarray(grey[:, 2:]).save(pictures / "a.png")
    Image.fromarray(np.rot90(grey[:, 2:])).save(pictures / "b.png", exif=sideways)
    Image.fromarray(grey[:16, 8:24]).save(pictures / "c.png")
    Image.fromarray(grey[:8, 8:16]).save(pictures / "d.png")  # to be enlarged
    run.sample(params, "dots", None, models[1], tmp_path / "o", Wish(first=pictures, videos=4))
    first = read(tmp_path / "o" / "samples.h5")[:, 0]
    centre = grey[:, 9:41].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(first[0] - centre).max() <= 1, "Pillow rounds after rows and after columns"
    assert np.array_equal(first[0], first[1]) and np.array_equal(first[2], grey[:16, 8:24])


def test_networks_of_another_experiment_are_named_and_noted(params, models, tmp_path, capsys):
    facts = params.experiment("dots").model_dump()
    facts["motion"] |= {"conditioning_noise": 0.5, "diffusion": facts["motion"]["diffusion"] | {"prediction": "v"}}
    other = params.model_copy(update={"experiments": {"dots": Experiment.model_validate(facts)}})
    run.sample(other, "dots", *models, tmp_path / "o")
    assert "its motion network is not what params.yaml says" in capsys.readouterr().err
    said = groups.notes(tmp_path / "o" / "samples.h5")["sampling"]
    assert said["networks_unlike_params"] == {"motion": ["conditioning_noise", "diffusion.prediction"]}
    own = params.experiment("dots").motion
    assert said["motion"] == {
        "conditioning_noise": own.conditioning_noise,
        "prediction": own.diffusion.prediction,
        "target": own.target,
    }
    run.sample(params, "dots", *models, tmp_path / "p")
    assert "networks_unlike_params" not in groups.notes(tmp_path / "p" / "samples.h5")["sampling"]


def without_grid(path, out):
    with safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["vidm"])
    del notes["frames"]
    save_file(load_file(path), out, metadata={"vidm": json.dumps(notes)})
    return out


REFUSED = [
    (Wish(frames=5), "--frames 5: .*knows 4 frames; .*--time-grid clamp"),
    (Wish(first=Path("clips.h5"), size=24), r"clips.h5: frames are 16 x 16, to be sampled are 24 x 24.*--size 16"),
    (Wish(first=Path("empty")), "empty: no image in it"),
    (Wish(first=Path("nowhere")), r"nowhere: no such folder or file; give a folder of images"),
    (Wish(first=Path("broken")), r"a.png: not a readable image"),
    (Wish(first=Path("clips.h5"), videos=9), r"clips.h5: 4 clips or images.*the 9 asked"),
    (Wish(first=Path("clips.h5"), further=Path("clips.h5")), "one of them"),
    (Wish(further=Path("clips.h5")), r"clips.h5: has 6 frames already"),
    (Wish(size=32), "constant c has 16 pixels; give frames with --first"),
    (Wish(size=17), "--size 17: .*multiples of 2"),
    (Wish(shard=(3, 2)), "--shard 3/2"),
    (Wish(cls="cats"), "--class cats: .*does not know it"),
]


@pytest.mark.parametrize(("wish", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refused_before_work_starts(params, models, store, tmp_path, wish, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    shutil.copy(store, tmp_path / "clips.h5")
    with pytest.raises(InputError, match=words) as error:
        run.sample(params, "dots", *models, tmp_path / "o", wish)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists() and not (tmp_path / "runs").exists()


def test_other_files_and_disks_are_looked_at_before_work_starts(params, models, tmp_path, monkeypatch):
    params, out = changed(params, videos=4), tmp_path / "o"
    with pytest.raises(InputError, match="its time grid is not in it"):
        run.sample(params, "dots", models[0], without_grid(models[1], tmp_path / "m.safetensors"), out)
    with pytest.raises(InputError, match="--content: is needed"):
        run.sample(params, "dots", None, models[1], out)
    run.sample(params, "dots", *models, out, Wish(shard=(1, 2)))
    with pytest.raises(InputError, match=r"shard_1_of_2.h5: holds videos 0..1 of seed 0, shard_1_of_3.h5 .* 0..0;"):
        run.sample(params, "dots", *models, out, Wish(shard=(1, 3)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs 0.0 MB, 0.0 MB are free on its disk"):
        run.sample(params, "dots", *models, out, Wish(shard=(2, 2)))
    assert sorted(p.name for p in out.iterdir()) == ["shard_1_of_2.h5"]


def test_where_the_time_goes(params, models, tmp_path, capfd):
    run.sample(params, "dots", *models, tmp_path / "o", benchmark=True)
    said, heard = capfd.readouterr()
    rows = {line.split()[0]: float(line.split()[1]) for line in said.splitlines() if " s" in line}
    parts = {"content", "encoder", "unet", "coordinates", "scheduler", "noise", "io", "spynet", "rest"}
    assert rows.keys() == parts | {"all"}
    assert sum(rows[part] for part in parts) == pytest.approx(rows["all"], abs=0.06)
    assert min(rows["unet"], rows["spynet"]) > 0
    assert "2 videos of 4 frames, 16 x 16 pixels: 0.0 MB of disk at most" in heard
    assert "residual features: 2 of 2 kept" in heard


def test_classes_and_the_official_loss_from_training_to_samples(params, store, tmp_path):
    """The clips' classes reach both networks and come back with the samples; learned variance on the way."""
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
    weights = tmp_path / "c.safetensors", tmp_path / "m.safetensors"
    _, notes = trained.load(weights[1], "motion", torch.device("cpu"))
    assert notes["classes"] == {"a": 2, "b": 2}
    for name, wish, classes in (
        ("drawn", Wish(), ["ab"[label_of(0, k, [2, 2])] for k in range(2)]),
        ("asked", Wish(cls="b"), ["b", "b"]),
        ("given", Wish(first=classed), ["a", "b"]),
    ):
        run.sample(params, "dots", *weights, tmp_path / name, wish)
        with FrameStore(tmp_path / name / "samples.h5") as made:
            assert made.classes == classes
    with pytest.raises(InputError, match="the network knows no class ''; give one with --class"):
        run.sample(params, "dots", *weights, tmp_path / "o", Wish(first=store))
