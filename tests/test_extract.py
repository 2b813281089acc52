"""A folder of videos to a frame store: the zoo of broken files, splits, and what a failure leaves."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from test_video import ffmpeg, lossless, picture, turned

from vidm import cli
from vidm.config import Dataset
from vidm.data import extract as extraction
from vidm.data.extract import extract, split_by_hash
from vidm.data.inspection import describe, survey
from vidm.data.layouts import find_clips, has_videos
from vidm.data.store import FrameStore
from vidm.data.video import encode
from vidm.errors import InputError

FACTS = {"raw": "data/raw/x", "resolution": 16, "min_frames": 8}


def facts(**changes):
    return Dataset(**{**FACTS, **changes})


def moving(seed, frames=10, side=16):
    """A lossless clip's frames, different for each seed."""
    return np.roll(picture(frames, side, side), seed, axis=2) // 2 + np.uint8(seed)


def folder_of(root, count, frames=10, split=""):
    where = root / split
    where.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        lossless(where / f"{i}.mkv", moving(i + 50 * len(split), frames))
    return root


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Good files with hard names, and every kind of bad one."""
    base = tmp_path_factory.mktemp("base")
    root = base / "zoo"
    (root / "sub").mkdir(parents=True)
    for i, name in enumerate(["good.mkv", "a 'b' \"c\"\n%d.mkv", "-dash.mkv", "sub/deep.mkv"]):
        lossless(root / name, moving(i))
    shutil.move(root / "good.mkv", root / os.fsdecode(b"bytes-\xff.mkv"))
    encode(root / "odd.mp4", picture(12, 33, 47), 25)
    encode(base / "outside.mp4", picture(20, 32, 32), 25)
    turned(base / "outside.mp4", root / "rotated.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=40x30:rate=10:duration=2", root / "anim.gif")
    # Bad ones.
    (root / "text.mp4").write_text("I am no video\n" * 40)
    (root / "zero.mp4").touch()
    data = (base / "outside.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    (root / "hls.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{base / 'outside.mp4'}\n#EXT-X-ENDLIST\n")
    (root / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {base / 'outside.mp4'}\n")
    (root / "link.mp4").symlink_to(base / "outside.mp4")
    (root / "linked").symlink_to(base)
    (root / "nowhere.mp4").symlink_to(base / "missing.mp4")
    (root / "in.mkv").symlink_to(root / "sub" / "deep.mkv")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", root / "song.m4a")
    encode(root / "short.mp4", picture(5, 16, 16), 25)
    shutil.copy(root / "odd.mp4", root / "odd copy.mp4")
    os.mkfifo(root / "pipe.mp4")
    # Passed over.
    (root / "README.md").write_text("words")
    (root / ".hidden.mp4").write_text("words")
    (root / "sky.dvc").write_text("words")
    (root / "manifest.json").write_text("{}")
    return root


REASONS = {
    "text.mp4": "not a video",
    "zero.mp4": "empty file",
    "cut.mp4": "too short: |damaged or truncated",
    "hls.mp4": "playlist",
    "list.ffconcat": "playlist",
    "link.mp4": "link out of the folder",
    "linked": "link out of the folder",
    "nowhere.mp4": "leads nowhere",
    "song.m4a": "no video stream",
    "short.mp4": "too short: 5 frames, needs 8",
    "odd.mp4": r"same bytes as odd copy\.mp4",
    "sub/deep.mkv": r"same bytes as in\.mkv",
    "pipe.mp4": "not a regular file",
}
GOOD = {"-dash.mkv", "a 'b' \"c\"\n%d.mkv", "anim.gif", "bytes-\\xff.mkv", "in.mkv", "odd copy.mp4", "rotated.mp4"}


def test_zoo(zoo, tmp_path):
    out = tmp_path / "zoo.h5"
    summary = extract(zoo, out, facts(), origin="raw", workers=3)
    with FrameStore(out) as store:
        skipped = dict(store.skipped)
        assert set(store.sources) == GOOD
        assert store.sources == sorted(store.sources)
        assert set(skipped) == set(REASONS)
        assert store.dropped == len(REASONS)
        for name, reason in REASONS.items():
            assert re.search(reason, skipped[name]), (name, skipped[name])
        assert set(store.splits) == {"train", "test"}
        assert str(zoo.parent) not in str(store.skipped), "the machine's paths stay out of the data"
        whole = store.read(store.sources.index("-dash.mkv"))
        np.testing.assert_array_equal(whole, moving(2))
        assert store.length(store.sources.index("anim.gif")) == 20
        assert store.facts["resolution"] == 16
    assert "7 clips" in summary
    assert "13 skipped" in summary
    assert "cut.mp4" in summary
    text = describe(survey(zoo, facts()))
    assert "playlist" in text
    assert "link out of the folder" in text
    assert "sha256" in describe(survey(out, facts()))
    assert [p.name for p in tmp_path.iterdir()] == ["zoo.h5"]


def test_same_store_for_any_workers_place_and_order(tmp_path):
    a = folder_of(tmp_path / "a", 6)
    b = tmp_path / "somewhere else"
    b.mkdir()
    for i, path in enumerate(sorted(a.iterdir(), reverse=True)):
        shutil.copy(path, b / f"{i}0.mkv")
    stores = []
    for name, source, workers in [("1", a, 1), ("2", a, 4), ("3", b, 2)]:
        extract(source, tmp_path / f"{name}.h5", facts(), workers=workers)
        stores.append(FrameStore(tmp_path / f"{name}.h5"))
    assert stores[0].hashes == stores[1].hashes
    assert stores[0].sources == stores[1].sources
    assert {s.sha256 for s in stores} == {stores[0].sha256}
    assert dict(zip(stores[0].hashes, stores[0].splits, strict=True)) == dict(
        zip(stores[2].hashes, stores[2].splits, strict=True)
    )


def test_folders_name_the_split(tmp_path):
    raw = tmp_path / "raw"
    for split, count in [("train", 3), ("test", 2), ("val", 1)]:
        folder_of(raw, count, split=split)
    shutil.copy(raw / "train" / "0.mkv", raw / "loose.mkv")
    shutil.copy(raw / "test" / "0.mkv", raw / "train" / "leak.mkv")
    summary = extract(raw, tmp_path / "s.h5", facts())
    store = FrameStore(tmp_path / "s.h5")
    assert [source.split("/")[0] for source in store.sources] == store.splits
    assert {s: len(store.indices(s)) for s in ("train", "val", "test")} == {"train": 3, "val": 1, "test": 2}
    skipped = dict(store.skipped)
    assert "of which split" in skipped["loose.mkv"]
    assert "same bytes as test/0.mkv" in skipped["train/leak.mkv"]
    assert "warning" not in summary
    shutil.rmtree(raw / "test")
    assert "warning: no test clip" in extract(raw, tmp_path / "s.h5", facts())


def test_stride_and_pieces(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    frames = moving(0, 49)
    lossless(raw / "long.mkv", frames, rate=10)
    extract(raw, tmp_path / "s.h5", facts(stride=2, max_frames=10, min_frames=5))
    with FrameStore(tmp_path / "s.h5") as store:
        assert store.sources == ["long.mkv#0", "long.mkv#1", "long.mkv#2"]
        assert store.lengths.tolist() == [10, 10, 5]
        assert store.fps.tolist() == [5.0] * 3
        assert store.strides.tolist() == [2] * 3
        np.testing.assert_array_equal(np.concatenate([store.read(i) for i in range(3)]), frames[::2])
        assert len(set(store.splits)) == 1, "pieces of one file stay on one side"
    extract(raw, tmp_path / "s.h5", facts(stride=2, max_frames=10, min_frames=6))
    assert FrameStore(tmp_path / "s.h5").lengths.tolist() == [10, 10]


def test_split_by_hash():
    rng = np.random.default_rng(0)
    digests = [rng.bytes(32).hex() for _ in range(3000)]
    split = split_by_hash(digests, 1 / 3)
    assert split == split_by_hash(digests[::-1], 1 / 3)
    assert abs(list(split.values()).count("test") / 3000 - 1 / 3) < 0.03
    low, high = "0" * 64, "f" * 64
    assert split_by_hash([high, "e" * 64], 0.5) == {high: "train", "e" * 64: "test"}
    assert split_by_hash([low, "1" * 64], 0.5) == {low: "test", "1" * 64: "train"}
    assert split_by_hash([low], 0.5) == {low: "test"}
    assert split_by_hash([low, high], 0) == {low: "train", high: "train"}


def test_nothing_usable_is_an_error_with_reasons(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "raw"
    with pytest.raises(InputError, match="no such folder"):
        extract(raw, tmp_path / "s.h5", facts())
    raw.mkdir()
    with pytest.raises(InputError, match="no video in this folder"):
        extract(raw, tmp_path / "s.h5", facts())
    (raw / "bad\nname.mp4").touch()
    with pytest.raises(InputError, match=r"no usable clip; bad\\nname\.mp4: empty file"):
        extract(raw, tmp_path / "s.h5", facts())
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    monkeypatch.setattr(sys, "argv", ["vidm", "data", "extract", str(raw), "--dataset", "sky", "--out", "x.h5"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert [s for s in capsys.readouterr().err.splitlines() if "Traceback" in s] == []


def test_interrupted_extraction_leaves_the_old_store(tmp_path, monkeypatch):
    raw, out = folder_of(tmp_path / "raw", 5), tmp_path / "s.h5"
    extract(raw, out, facts())
    before = out.read_bytes()

    def stopped(*arguments):
        if arguments[0].source == "3.mkv":
            raise KeyboardInterrupt
        return part(*arguments)

    part = extraction._part
    monkeypatch.setattr(extraction, "_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract(raw, out, facts(), workers=2)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "s.h5"]


def test_has_videos(tmp_path):
    assert not has_videos(tmp_path / "missing")
    raw = tmp_path / "raw"
    (raw / "train").mkdir(parents=True)
    for name in ("README.md", ".gitignore", "sky.dvc", "manifest.json", ".keep"):
        (raw / name).touch()
    assert not has_videos(raw)
    (raw / "train" / "a.mp4").touch()
    assert has_videos(raw)


def test_links_in_circles_end(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    assert {c.source for c in find_clips(tmp_path) if c.reason} == {"loop", "self.mp4"}


def test_layouts_import_nothing_heavy():
    code = "import sys, vidm.data.layouts; print(*{'torch', 'av', 'h5py', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_real_clips(shared, tmp_path):
    """36 real sky clips and a real GIF, from one folder."""
    shutil.copytree(shared / "data" / "sky", tmp_path / "raw")
    shutil.copy(next((shared / "data").glob("*.gif")), tmp_path / "raw")
    extract(tmp_path / "raw", tmp_path / "s.h5", facts(resolution=32, min_frames=16))
    with FrameStore(tmp_path / "s.h5") as store:
        assert (len(store), store.skipped) == (37, [])
        assert sorted(set(store.lengths.tolist())) == [32, 79]
        assert len(store.indices("test")) >= 5
        motion = [np.abs(np.diff(store.read(i).astype(int), axis=0)).mean() for i in range(len(store))]
        assert min(motion) > 0.05
        assert max(motion) < 40
