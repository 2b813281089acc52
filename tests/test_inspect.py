"""The dry run: what it says is what an extraction then does."""

import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image
from test_layouts import pictures, video
from test_video import ffmpeg, turned

from vidm import config
from vidm.data.extract import extract
from vidm.data.inspection import describe, survey

FACTS = {"raw": "data/raw/x", "resolution": 24, "min_frames": 8}
PARAMS = f"model_version: 1\nexperiments: {{}}\ndatasets:\n  mine: {json.dumps(FACTS)}\n"


def facts(**changes):
    return config.Dataset(**(FACTS | changes))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("inspect") / "raw"
    for seed, name in enumerate(["train/a/1.mkv", "train/a/2.mkv", "train/b/3.mkv", "test/b/4.mkv"]):
        video(root / name, seed)
    shutil.copy(root / "train/a/1.mkv", root / "train/b/copy.mkv")
    pictures(root / "test/b/five $x$", 5, count=11)
    pictures(root / "test/b/short", 6, count=3)
    (root / "train/a/text.mp4").write_text("no video " * 40)
    return root


def test_says_what_an_extraction_does(raw, tmp_path):
    for changes in (
        {},
        {"stride": 2, "min_frames": 4},
        {"max_frames": 4, "min_frames": 3},
        {"fps": 5, "min_frames": 4},
    ):
        said = survey(raw, facts(**changes))
        extract(raw, tmp_path / "s.h5", facts(**changes))
        stored = survey(tmp_path / "s.h5", facts())
        assert said["dropped"] == stored["dropped"], changes
        assert said["hdf5"]["frames"] == stored["hdf5"]["frames"], changes
        if "max_frames" not in changes:
            assert (said["clips"], said["splits"], said["classes"]) == tuple(
                stored[key] for key in ("clips", "splits", "classes")
            )
        with h5py.File(tmp_path / "s.h5") as file:
            assert said["hdf5"]["bytes"] >= file["frames"].size
    assert not said["hdf5"]["estimated"]


def test_command(raw, vidm, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    options = ["--dataset", "mine", "--params", tmp_path / "params.yaml"]
    files = ["--json", tmp_path / "new" / "s.json", "--picture", tmp_path / "p.png"]
    ended = vidm("data", "inspect", raw, *options, *files)
    assert ended.returncode == 0, ended.stderr
    for line in ("5 clips (3 train, 2 test)", "classes  2: b (3), a (2)", "layout   videos"):
        assert line in ended.stdout
    for line in ("test/b/short: too short: 3 frames, needs 8", "train/b/copy.mkv: the same bytes as train/a/1.mkv"):
        assert line in ended.stdout
    told = json.loads((tmp_path / "new" / "s.json").read_text())
    assert told["sizes"] == {"16 x 16": 5} and told["codecs"] == {"ffv1": 4, "png": 1}
    assert told["rates"] == {"10": 4, "25": 1}
    with Image.open(tmp_path / "p.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert 0.1 < (pixels.max(axis=2) < 200).mean() < 0.9, "the frames are in the picture, on white"
    refused = vidm("data", "inspect", raw, *options, "--picture", tmp_path / "p.xyz")
    assert refused.returncode == 2 and "p.xyz: not a picture's name" in refused.stderr


def test_a_folder_without_a_usable_clip_is_told_and_an_empty_one_refused(vidm, tmp_path):
    (tmp_path / "empty").mkdir()
    assert vidm("data", "inspect", tmp_path / "empty").returncode == 2
    pictures(tmp_path / "raw" / "short", 6, count=3)
    ended = vidm("data", "inspect", tmp_path / "raw", "--json", tmp_path / "s.json")
    assert ended.returncode == 0, ended.stderr
    assert "dropped  1: too short" in ended.stdout
    assert len(json.loads((tmp_path / "s.json").read_text())["dropped"]) == 1


def test_a_store_is_drawn_and_verified(raw, vidm, tmp_path):
    extract(raw, tmp_path / "s.h5", facts())
    ended = vidm("data", "inspect", tmp_path / "s.h5", "--picture", tmp_path / "s.svg", "--verify")
    assert ended.returncode == 0, ended.stderr
    assert "5 clips, all as they were written" in ended.stdout
    assert (tmp_path / "s.svg").stat().st_size > 1000
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["frames"][3, 5, 5, 0] ^= 1
    ended = vidm("data", "inspect", tmp_path / "s.h5", "--verify")
    assert ended.returncode == 2
    assert "s.h5: 1 clips are not what was written, such as test/b/4.mkv" in ended.stderr


def test_a_large_folder_is_sampled(tmp_path):
    root = tmp_path / "many"
    video(root / "0.mkv", 1)
    for k in range(1, 30):
        video(root / f"{k}.mkv", k)
    said = survey(root, facts(), most=10)
    assert (said["files"], said["opened"], said["clips"]) == (30, 10, 30)
    assert said["hdf5"]["estimated"] and said["hdf5"]["frames"] == 30 * 9
    assert "10 of 30 files" in describe(said)


def test_what_is_unusual_is_said(tmp_path):
    root = tmp_path / "odd"
    root.mkdir()
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=2"]
    ffmpeg(*source, "-c:v", "libx264", root / "plain.mp4")
    turned(root / "plain.mp4", root / "turned.mp4")
    ffmpeg(*source, "-vf", "interlace", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", root / "woven.mpg")
    uneven = "select='not(mod(n,7))+not(mod(n,4))'"
    ffmpeg(*source, "-vf", uneven, "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "0", root / "uneven.mp4")
    ffmpeg(*source, "-c:v", "ffv1", "-pix_fmt", "yuv420p10le", root / "ten.mkv")
    ffmpeg(*source, "-c:v", "ffv1", "-pix_fmt", "yuva420p", root / "alpha.mkv")
    ffmpeg(*source, "-c:v", "ffv1", "-pix_fmt", "gray", root / "grey.mkv")
    ffmpeg(
        *source,
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=128x96:rate=10:duration=2",
        "-map",
        "0",
        "-map",
        "1",
        root / "two.mkv",
    )
    notes = survey(root, facts(min_frames=3))["notes"]
    assert len(notes) == 7 and all(note.startswith("1 ") for note in notes), notes
    assert survey(root, facts())["sizes"]["48 x 64"] == 1, "as shown, after the rotation"
