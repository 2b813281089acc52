"""GPUs shared by processes that really run; CUDA_VISIBLE_DEVICES names some that need not be there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vidm import devices
from vidm.errors import InputError

ROOT = Path(__file__).parents[1]
# Says which GPUs it has, and from when to when.
JOB = """
import os, sys, time
began = time.time()
time.sleep(float(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], began, time.time())
"""
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """Locks of our own, and no driver."""
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("LOCAL_RANK", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that what was there before a test is there after it
        monkeypatch.delenv(name)
    driver(tmp_path, monkeypatch, "exit 9")
    yield
    devices.release()


def driver(folder, monkeypatch, script):
    """An nvidia-smi that comes first."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    if str(folder / "bin") not in os.environ["PATH"].split(os.pathsep):
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def job(count: int, seconds: float, gpus: str = "0,1,2") -> subprocess.Popen:
    """`vidm gpus --take COUNT -- ...`, without the rest of the command line."""
    run = f"from vidm import devices; devices.run({count}, [{sys.executable!r}, '-c', {JOB!r}, '{seconds}'])"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", run], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def times(jobs) -> list[tuple[set[str], float, float]]:
    found = []
    for process in jobs:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        gpus, began, ended = out.split()
        found.append((set(gpus.split(",")), float(began), float(ended)))
    return found


def collisions(found) -> list:
    return [
        (a, b) for i, a in enumerate(found) for b in found[:i] if a[0] & b[0] and a[1] < b[2] and b[1] < a[2]
    ]  # fmt: skip


def test_jobs_share_the_gpus_without_colliding():
    """More jobs than GPUs, of one GPU and of two: each has as many as it asked for, and for itself."""
    counts = [1, 2, 1, 2, 1, 1]
    found = times([job(count, 0.4) for count in counts])
    assert [len(gpus) for gpus, _, _ in found] == counts
    assert set.union(*(gpus for gpus, _, _ in found)) <= {"0", "1", "2"}
    assert not collisions(found)


def test_the_check_itself_sees_a_collision():
    assert collisions([({"0", "1"}, 0.0, 2.0), ({"1"}, 1.0, 3.0)])
    assert not collisions([({"0", "1"}, 0.0, 2.0), ({"2"}, 1.0, 3.0), ({"0"}, 2.5, 3.0)])


def test_a_killed_job_frees_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first = job(1, 600, gpus="0")
    while "free" in devices.table():
        time.sleep(0.05)
    second = job(1, 0, gpus="0")
    time.sleep(1)
    assert first.poll() is None and second.poll() is None
    first.kill()
    first.communicate()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0 and out.startswith("0 ")
    assert err == "vidm: waits for 1 of 1 GPUs; the others have them\n"


def test_a_name_and_a_number_are_the_same_gpu(tmp_path, monkeypatch):
    """Where CUDA_VISIBLE_DEVICES is not set, GPUs go by the driver's names; where it is, perhaps by number."""
    driver(tmp_path, monkeypatch, "echo '0, GPU-aa'; echo '1, GPU-bb'")
    assert devices._usable(devices._installed()) == {"GPU-aa": "GPU-aa", "GPU-bb": "GPU-bb"}
    devices.take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.table().split() == ["0", "taken", "1", "free"]
    (found,) = times([job(1, 0, gpus="0,1")])
    assert found[0] == {"1"}


def test_what_it_took_it_lets_go_of(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    devices.take(2)
    assert devices.table().split() == ["3", "taken", "4", "taken"]
    devices.release()
    assert devices.table().split() == ["3", "free", "4", "free"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,4"


@pytest.mark.parametrize(
    "count, environment",
    [
        (0, {"CUDA_VISIBLE_DEVICES": "0"}),  # the CPU is wanted
        (None, {}),  # none is there, none is asked for
        (None, {"CUDA_VISIBLE_DEVICES": ""}),
        (1, {"LOCAL_RANK": "0"}),  # torchrun's parent has it
        (1, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}),  # the 0 of this job is not that of another
    ],
)
def test_where_nothing_is_taken(count, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    devices.take(count)
    assert not devices._taken
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == environment.get("CUDA_VISIBLE_DEVICES")


def test_more_than_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=r"3 GPUs asked for, 2 here; lower running\.gpus"):
        devices.take(3)
    assert not devices._taken


def test_a_command_that_is_none():
    with pytest.raises(InputError, match="no-such-program: can't be run"):
        devices.run(0, ["no-such-program"])


@no_gpu
def test_the_command(vidm):
    ended = vidm("gpus")
    assert ended.returncode == 0 and ended.stdout == "no GPU; training, sampling and metrics run on the CPU\n"
    ended = vidm("gpus", "--take", "2", "--", "echo", "never")
    assert ended.returncode == 2
    assert ended.stderr.startswith("vidm: 2 GPUs asked for, 0 here") and not ended.stdout
