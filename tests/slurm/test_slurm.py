"""The workflow on a real SLURM, one node: a training is cancelled, or requeued, and ends bit-equal to the plain run."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, copy

from . import cluster

TARGET = "results/smoke_fvd.json"
# A test cluster has no accounting and little memory, and nobody wants to wait for it.
HERE = (
    "--workflow-profile=profiles/slurm", "--slurm-no-account", "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=1", "--seconds-between-status-checks=2", "--latency-wait=10",
    "--default-resources", "mem_mb=2000", "runtime=20",
    "--set-resources", "train_content:mem_mb=2000", "train_motion:mem_mb=2000",
    "--retries=1", "--set-threads", "render=1", "extract=1", "train_content=1", "train_motion=1", "evaluate=1",
    "sample_smoke=1", "given=1",
)  # fmt: skip


STEPS = {"content": 100, "motion": 40}


def made(folder: Path, **running) -> Project:
    """A copy of this project whose smoke experiment trains long enough to be interrupted, and saves at each step."""
    project = copy(folder)
    path = project.folder / "params.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    smoke = document["experiments"]["smoke"]
    smoke["running"] = {"checkpoint_minutes": 0.0} | running
    for part, steps in STEPS.items():
        smoke[part]["training"]["steps"] = steps
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return project


def results(project: Project) -> dict[str, bytes]:
    names = ("models/smoke/content.safetensors", "models/smoke/motion.safetensors", TARGET)
    return {name: (project.folder / name).read_bytes() for name in names}


LIMIT = 900  # seconds for a run; polling takes most of it, and a busy machine makes each of seven jobs slow to start


@contextlib.contextmanager
def started(project: Project, log: Path, target: str = TARGET) -> Iterator[subprocess.Popen]:
    """snakemake on the cluster, in the background. Neither it nor its jobs outlive the block."""
    tools = Path(sys.executable).parent
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(tools / "snakemake"), *HERE, "--", target],
            cwd=project.folder,
            env=project.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        cluster.said("scancel", "--user=root")


def job_of(process: subprocess.Popen, project: Project, *rules: str, wanted="step-*.safetensors") -> tuple[str, str]:
    """The first of these rules that runs and has written two of what is wanted, and the number of its job."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        lines = cluster.said("squeue", "--noheader", "--states=RUNNING", "--format=%A %k").splitlines()
        for rule in rules:
            saved = list(project.folder.glob(f"runs/smoke/{rule.removeprefix('train_')}-*/{wanted}"))
            for line in lines:
                if rule in line and len(saved) > 1:
                    return rule, line.split()[0]
        time.sleep(0.3)
    raise AssertionError(f"none of {rules} runs (snakemake: {process.returncode}): {cluster.said('squeue')}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    with cluster.cluster(tmp_path_factory.mktemp("cluster")):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What a run that is not on a cluster makes."""
    project = made(tmp_path_factory.mktemp("plain"))
    project.ok("snakemake", "--cores", "1", TARGET)
    return project


@pytest.mark.slurm
def test_interrupted_on_a_cluster_it_ends_bit_equal(slurm, plain, tmp_path):
    """One training is taken off its node and put back by SLURM; the other cancelled, and Snakemake submits it again."""
    project = made(tmp_path / "project")
    log = tmp_path / "snakemake.log"
    interrupts = {"train_motion": ["scontrol", "requeue"], "train_content": ["scancel"]}
    with started(project, log) as process:
        while interrupts:  # which of the two is first is Snakemake's affair
            rule, job = job_of(process, project, *interrupts)
            subprocess.run([*interrupts.pop(rule), job], check=True, timeout=30)
        process.wait(timeout=LIMIT)
    said = log.read_text()
    assert process.returncode == 0, said[-4000:]
    # With --profile the default one is loaded, too, and the cluster would run one GPU job at a time.
    assert not [line for line in said.splitlines() if line.startswith("Provided resources") and "gpu=" in line]
    assert said.count("Trying to restart job") == 1, said[-4000:]
    for part, steps in STEPS.items():
        assert "goes on at step" in (project.folder / f"logs/train_{part}/smoke.log").read_text()
        cost = json.loads((project.folder / f"models/smoke/{part}_run.json").read_text())
        assert cost["step"] == steps
    assert results(project) == results(plain)


@pytest.mark.slurm
def test_a_warning_before_the_time_is_over_saves(slurm, plain, tmp_path):
    """SIGUSR1 to all processes of a job, as `--signal=USR1@120` sends it: saved, and submitted again."""
    project = made(tmp_path / "project", checkpoint_minutes=1000.0, preview_steps=3)
    shutil.copytree(plain.folder / "data", project.folder / "data", dirs_exist_ok=True)
    target = "models/smoke/content.safetensors"
    log = tmp_path / "snakemake.log"
    with started(project, log, target) as process:
        _, job = job_of(process, project, "train_content", wanted="preview/step-*.png")
        subprocess.run(["scancel", "--signal=USR1", job], check=True, timeout=30)
        process.wait(timeout=LIMIT)
    assert process.returncode == 0, log.read_text()[-4000:]
    # Nothing but the signal made it save.
    assert "goes on at step" in (project.folder / "logs/train_content/smoke.log").read_text()
    assert (project.folder / target).read_bytes() == (plain.folder / target).read_bytes()


def test_the_cluster_profile_asks_for_gpus_memory_and_time():
    """What the executor will hand to sbatch, without a cluster."""
    project = Project(ROOT)
    said = project.ok("snakemake", "--workflow-profile", "profiles/slurm", "--dry-run", TARGET)
    motion = said.split("rule train_motion:")[1].split("rule ")[0]
    for wanted in ("gpu=1", "mem_mb=64000", "runtime=2880"):
        assert wanted in motion, motion
