"""Videos as people see them, and what each file says about itself."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.sampling import export, picture

NOTE = {"experiment": "sky", "seed": "0", "videos": "0-2", "motion": "ab" * 32}
FLAT = np.zeros((3, 5, 16, 16, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None] * 50


def test_a_contact_sheet(tmp_path):
    videos = np.random.default_rng(0).integers(256, size=(3, 5, 16, 16, 3), dtype=np.uint8)
    export.contact_sheet(tmp_path / "sheet.png", videos, NOTE, every=2, side=32)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 3 * 34 + 2  # frames 0, 2 and 4
    cell = sheet[18 + 2 : 18 + 34, 2:34]
    assert_close(torch.tensor(cell), torch.tensor(export.enlarged(videos[0, :1], 32)[0]))
    assert export.provenance_of(tmp_path / "sheet.png") == NOTE


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_moving_pictures(tmp_path, kind):
    path = tmp_path / f"p.{kind}"
    export.preview(path, FLAT, 8, NOTE, columns=2, side=32)
    assert export.provenance_of(path) == NOTE
    if kind == "mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    else:
        with Image.open(path) as picture:
            assert (picture.n_frames, picture.size, picture.info["loop"]) == (5, (66, 66), 0)
            frames = []
            for k in range(5):
                picture.seek(k)
                frames.append(np.asarray(picture.convert("RGB")))
    assert len(frames) == 5
    assert abs(frames[4][10, 10].astype(int) - 200).max() < 8
    assert frames[0][50, 10].max() < 8 < 240 < frames[0][50, 50].min()  # the third tile, and where there is none


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three generated videos of 5 frames, and four real ones of 6, of which two are for testing."""
    folder = tmp_path_factory.mktemp("stores")
    with StoreWriter(folder / "samples.h5", 16, 16, {}, origin="generated") as writer:
        for clip in FLAT:
            writer.add(clip, fps=8, split="generated", source="x")
    with StoreWriter(folder / "real.h5", 16, 16, {}, origin="raw") as writer:
        for k in range(4):
            split = "train" if k < 2 else "test"
            writer.add(np.full((6, 16, 16, 3), 60 * k, np.uint8), fps=25, split=split, source=str(k))
    with StoreWriter(folder / "small.h5", 8, 8, {}, origin="raw") as writer:
        writer.add(np.zeros((6, 8, 8, 3), np.uint8), fps=25, split="test", source="x")
    return folder


def test_the_command(vidm, stores, tmp_path):
    out = tmp_path / "strip.png"
    asked = ("export", stores / "samples.h5", "--videos", "0,2", "--side", 32)
    said = vidm(*asked, "--out", out, "--every", 2, "--beside", stores / "real.h5")
    assert said.returncode == 0 and "2 videos beside 2 real ones" in said.stdout
    strip = np.asarray(Image.open(out))
    left = strip.shape[1] - (3 * 34 + 2)
    assert strip.shape[0] == 18 + 4 * 34 + 2 and left > 60  # two rows of each, with their names
    assert abs(strip[-10, -10].astype(int) - 180).max() == 0, "the last test clip"
    assert export.provenance_of(out)["videos"] == "0,2"
    moving = tmp_path / "moving.GIF"
    assert vidm(*asked, "--out", moving, "--beside", stores / "real.h5").returncode == 0
    with Image.open(moving) as picture:
        assert (picture.n_frames, picture.size) == (5, (66 + 8 + 66, 32))
    assert export.provenance_of(moving)["videos"] == "0,2"


MADE = [
    ({"seed": 5, "videos": [4, 7]}, "5", "4,6"),
    ({"seed": 5, "videos": [4, 7], "seeds": [5, 9], "each": 5}, "5,9", "4,1"),
    ({"seed": 5, "videos": [6, 9], "seeds": [5, 9], "each": 5}, "9", "1,3"),
]


@pytest.mark.parametrize(("seeds", "seed", "videos"), MADE)
def test_videos_are_named_by_their_seeds(vidm, tmp_path, seeds, seed, videos):
    """Not by their rows in the file, which are others in a shard, or with several seeds."""
    about = {"sampling": {"seeds": seeds}, "checkpoints": {"motion": {"sha256": "ab"}}, "run": "", "experiment": "sky"}
    with StoreWriter(tmp_path / "made.h5", 16, 16, {}, origin="generated") as writer:
        writer.attributes |= {key: json.dumps(value) for key, value in about.items()}
        for k in range(4):
            writer.add(FLAT[0] + np.uint8(k), fps=8, split="generated", source="x")
    said = vidm("export", tmp_path / "made.h5", "--videos", "0,2", "--out", tmp_path / "o.webp")
    assert said.returncode == 0, said.stderr
    note = export.provenance_of(tmp_path / "o.webp")
    assert (note["seed"], note["videos"], note["experiment"], note["motion"]) == (seed, videos, "sky", "ab")


def test_without_numbers_the_first_eight_are_taken_or_all(vidm, stores, tmp_path):
    assert "3 videos" in vidm("export", stores / "samples.h5", "--out", tmp_path / "o.png").stdout
    with StoreWriter(tmp_path / "nine.h5", 16, 16, {}, origin="generated") as writer:
        for k in range(9):
            writer.add(FLAT[0] + np.uint8(k), fps=8, split="generated", source=str(k))
    assert "8 videos" in vidm("export", tmp_path / "nine.h5", "--out", tmp_path / "o.png").stdout


def test_names_of_files_are_told_from_names_of_folders(tmp_path):
    assert picture.moves(Path("a.mp4")) and picture.moves(Path("a.WEBP"))
    assert not any(map(picture.moves, (Path("samples"), Path("out.v2"), Path(".hidden"))))
    for name in ("a.png", "a.AVI", "samples.h5"):
        with pytest.raises(InputError, match=f"{name}: ends in none of .mp4, .gif, .webp"):
            picture.moves(Path(name))
    made = []
    with pytest.raises(InputError, match="is a folder; give a file's name"):
        picture.picture(tmp_path, lambda *folders: made.append(folders))
    assert not made


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--videos", "3"], "no video 3; it has 0..2"), (["--videos", "0", "--beside", "small.h5"], "another size")],
)
def test_refused(vidm, stores, tmp_path, words, said):
    words = [stores / w if w.endswith(".h5") else w for w in words]
    ended = vidm("export", stores / "samples.h5", "--out", tmp_path / "o.png", *words)
    assert ended.returncode == 2 and said in ended.stderr
