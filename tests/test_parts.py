"""Extraction that is stopped, killed, repeated and extended: the same frames, and nothing done twice."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_extract import facts, folder_of, moving
from test_video import ffmpeg, lossless

from vidm.data import extract as extraction
from vidm.data import parts as parting
from vidm.data.decoding import write
from vidm.data.extract import extract
from vidm.data.store import FrameStore, StoreWriter, clip_hash
from vidm.errors import InputError

ROOT = Path(__file__).parents[1]


def count(monkeypatch):
    """Names of the clips that are decoded from now on."""
    names, make = [], parting.Parts.make

    def counted(self, candidate):
        names.append(candidate.source)
        return make(self, candidate)

    monkeypatch.setattr(parting.Parts, "make", counted)
    return names


def test_only_what_is_new_is_decoded(tmp_path, monkeypatch):
    raw, runs, out = folder_of(tmp_path / "raw", 5), tmp_path / "runs", tmp_path / "s.h5"
    extract(raw, out, facts(), parts=runs)
    first, made = FrameStore(out), count(monkeypatch)
    said = extract(raw, out, facts(), parts=runs)
    assert made == [] and "5 clips were decoded before" in said
    assert FrameStore(out).sha256 == first.sha256

    lossless(raw / "new.mkv", moving(77))
    os.utime(raw / "1.mkv")  # another time, the same bytes: as dvc checkout leaves it
    shutil.copy(raw / "3.mkv", tmp_path / "kept")
    lossless(raw / "3.mkv", moving(78))
    extract(raw, out, facts(), parts=runs)
    assert sorted(made) == ["3.mkv", "new.mkv"]
    (raw / "0.mkv").unlink()
    extract(raw, out, facts(), parts=runs)
    whole = FrameStore(out)
    assert len(made) == 2 and whole.sources == ["1.mkv", "2.mkv", "3.mkv", "4.mkv", "new.mkv"]
    np.testing.assert_array_equal(whole.read(2), moving(78))
    clean = tmp_path / "clean.h5"
    extract(raw, clean, facts())
    assert FrameStore(clean).sha256 == whole.sha256


def test_settings_that_make_other_frames_and_those_that_do_not(tmp_path, monkeypatch):
    raw, runs, out = folder_of(tmp_path / "raw", 3, frames=20), tmp_path / "runs", tmp_path / "s.h5"
    extract(raw, out, facts(), parts=runs)
    made = count(monkeypatch)
    for changes in ({"min_frames": 20}, {"max_frames": 9}, {"test_fraction": 0.5}):
        extract(raw, out, facts(**changes), parts=runs)
        assert made == [], changes
        with FrameStore(out) as store:
            assert all(clip_hash(store.read(i)) == store.hashes[i] for i in range(len(store)))
    assert len(FrameStore(out)) == 3
    for changes in ({"stride": 2}, {"resolution": 8}, {"resize": "lanczos"}, {"fps": 5}):
        extract(raw, out, facts(**changes), parts=runs)
        assert len(made) == 3, changes
        made.clear()


def test_prune_and_what_the_summary_says_of_the_disk(tmp_path, vidm):
    raw, runs = folder_of(tmp_path / "raw", 3), tmp_path / "runs"
    (tmp_path / "params.yaml").write_text(
        f"model_version: 1\nexperiments: {{}}\ndatasets:\n  mine: {json.dumps(facts().model_dump(exclude_none=True))}\n"
    )
    command = ["data", "extract", raw, "--dataset", "mine", "--out", tmp_path / "s.h5", "--runs", runs]
    command += ["--params", tmp_path / "params.yaml"]
    said = vidm(*command).stdout
    taken = sum(p.stat().st_size for p in (runs / "extract" / "mine").rglob("*") if p.is_file())
    assert taken > 3 * 10 * 16 * 16 * 3 and f"parts: {extraction.size(taken)} in" in said
    said = vidm(*command, "--prune").stdout
    assert "parts:" not in said and not (runs / "extract" / "mine").exists()
    bad = vidm(*command, "--shard", "4/3")
    assert bad.returncode == 2 and "--shard 4/3: not K/N" in bad.stderr


def test_scattered_over_jobs(tmp_path, monkeypatch):
    raw, runs, out = folder_of(tmp_path / "raw", 7), tmp_path / "runs", tmp_path / "s.h5"
    said = [extract(raw, out, facts(), parts=runs, shard=(k, 3)) for k in (1, 2, 3)]
    assert not out.exists() and [text.split(": ")[1].split(" clips")[0] for text in said] == [
        "3 of 3",
        "2 of 2",
        "2 of 2",
    ]
    made = count(monkeypatch)
    extract(raw, out, facts(), parts=runs)
    assert made == [] and len(FrameStore(out)) == 7


def test_a_damaged_part_is_made_again(tmp_path, monkeypatch):
    raw, runs, out = folder_of(tmp_path / "raw", 3), tmp_path / "runs", tmp_path / "s.h5"
    extract(raw, out, facts(), parts=runs)
    before, made = FrameStore(out).sha256, count(monkeypatch)
    frames, notes = sorted(runs.rglob("*.rgb")), sorted(runs.rglob("*.json"))
    frames[0].write_bytes(b"short")
    notes[1].write_text("{")
    notes[2].unlink()
    extract(raw, out, facts(), parts=runs)
    assert len(made) == 3 and FrameStore(out).sha256 == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_killed_ten_times_it_ends_with_the_same_frames(tmp_path):
    """SIGKILL, at any moment, ffmpeg's processes left behind: as a cluster or an empty battery does it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for k in range(12):
        lossless(raw / f"{k}.mkv", moving(k, 60, 64))
    wanted = facts(resolution=64)
    extract(raw, tmp_path / "clean.h5", wanted)
    runs, out = tmp_path / "runs", tmp_path / "s.h5"
    kills, done = 0, []
    for attempt in range(60):
        # Forked: a fresh interpreter takes longer to start than the extraction takes.
        process = multiprocessing.get_context("fork").Process(
            target=extract, args=(raw, out, wanted), kwargs={"workers": 1, "parts": runs}
        )
        before, end = len(list(runs.rglob("*.json"))), time.monotonic() + 60
        process.start()
        while process.is_alive() and time.monotonic() < end and kills < 10:
            # Between two clips, or in the middle of one.
            if len(list(runs.rglob("*.json"))) > before or (attempt % 2 and any(runs.rglob(".*.tmp"))):
                process.kill()
                kills += 1
                break
            time.sleep(0.002)
        process.join()
        done.append(len(list(runs.rglob("*.json"))))
        if process.exitcode == 0:
            break
    assert kills == 10 and done == sorted(done), "nothing that was finished is lost"
    with FrameStore(out) as store, FrameStore(tmp_path / "clean.h5") as clean:
        assert (store.sha256, store.hashes, store.splits) == (clean.sha256, clean.hashes, clean.splits)
        assert store.skipped == []
        assert all(clip_hash(store.read(i)) == store.hashes[i] for i in range(len(store)))


def test_a_full_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    raw, out = folder_of(tmp_path / "raw", 2), tmp_path / "s.h5"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="the disk is full; free some"):
        patch.setattr(parting, "write", full)
        extract(raw, out, facts(), parts=tmp_path / "runs")
    usage = shutil.disk_usage(tmp_path)
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=r"s\.h5: the next clip needs 7\.68 kB, the disk has 0"),
    ):
        patch.setattr(extraction.shutil, "disk_usage", lambda _: usage._replace(free=0))
        extract(raw, out, facts(), parts=tmp_path / "runs")
    assert not out.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: no disk that is always full")
def test_ffmpeg_on_a_full_disk(tmp_path):
    path = lossless(tmp_path / "a.mkv", moving(0, 40, 64))
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        write(path, full, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units")
def test_memory_does_not_grow_with_length_or_number(tmp_path):
    """Peak memory of an extraction in a process of its own: a short clip; 15 times its frames; 10 such clips."""
    for name in ("one", "long", "many"):
        (tmp_path / name).mkdir()
    short = tmp_path / "one" / "0.avi"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=4", "-c:v", "mpeg4", short)
    ffmpeg("-stream_loop", "14", "-i", short, "-c", "copy", tmp_path / "long" / "0.avi")
    for k in range(10):  # bytes behind the end make another file of the same frames
        (tmp_path / "many" / f"{k}.avi").write_bytes(short.read_bytes() + bytes(k + 1))
    peaks = {}
    for name in ("one", "long", "many"):
        code = (
            "import resource; from vidm.config import Dataset; from vidm.data.extract import extract\n"
            f"print(extract({str(tmp_path / name)!r}, 's.h5', Dataset(raw='x', resolution=96), workers=1))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        peaks[name] = int(done.stdout.split()[-1]) // 1024
        frames = FrameStore(tmp_path / "s.h5").nbytes >> 20
        assert frames >= {"one": 2, "long": 39, "many": 26}[name]
    assert max(peaks.values()) - peaks["one"] < 15, f"{peaks} MB"


def test_blocks_that_do_not_add_up(tmp_path):
    with (
        pytest.raises(ValueError, match="3 frames came, 4 were announced"),
        StoreWriter(tmp_path / "s.h5", 4, 4, {}, "raw") as writer,
    ):
        writer.append([np.zeros((3, 4, 4, 3), np.uint8)], 4, "0" * 64, fps=1, split="train", source="x")
