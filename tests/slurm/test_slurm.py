"""The workflow on a real SLURM, one node: with one training cancelled and one requeued it ends bit-equal."""

import subprocess
import sys
import time
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
    "--set-threads", "render=1", "extract=1", "train_content=1", "train_motion=1", "evaluate=1",
    "sample_smoke=1",
)  # fmt: skip


def made(folder: Path) -> Project:
    """A copy of this project whose smoke experiment trains long enough to be interrupted, and saves at each step."""
    project = copy(folder)
    path = project.folder / "params.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    smoke = document["experiments"]["smoke"]
    smoke["running"] = {"checkpoint_minutes": 0.0}
    smoke["content"]["training"]["steps"], smoke["motion"]["training"]["steps"] = 100, 40
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return project


def results(project: Project) -> dict[str, bytes]:
    names = ("models/smoke/content.safetensors", "models/smoke/motion.safetensors", TARGET)
    return {name: (project.folder / name).read_bytes() for name in names}


def start(project: Project, log: Path) -> subprocess.Popen:
    """snakemake on the cluster, in the background."""
    tools = Path(sys.executable).parent
    with log.open("w") as file:
        return subprocess.Popen(
            [str(tools / "snakemake"), *HERE, "--", TARGET],
            cwd=project.folder,
            env=project.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def job_of(project: Project, rule: str) -> str:
    """The number of the running job of a rule that has saved a checkpoint."""
    part = rule.removeprefix("train_")
    for _ in range(600):
        saved = sorted(project.folder.glob(f"runs/smoke/{part}-*/step-*.safetensors"))
        for line in cluster.said("squeue", "--noheader", "--states=RUNNING", "--format=%A %k").splitlines():
            if rule in line and len(saved) > 1:
                return line.split()[0]
        time.sleep(0.3)
    raise AssertionError(f"no running job of {rule}: {cluster.said('squeue')}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    with cluster.cluster(tmp_path_factory.mktemp("cluster")):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    project = made(tmp_path_factory.mktemp("plain"))
    project.ok("snakemake", "--cores", "1", TARGET)
    return results(project)


@pytest.mark.slurm
def test_interrupted_on_a_cluster_it_ends_bit_equal(slurm, plain, tmp_path):
    """Content training is cancelled and tried again, motion training is taken off its node and put back."""
    project = made(tmp_path / "project")
    log = tmp_path / "snakemake.log"
    process = start(project, log)
    try:
        for rule, command in (("train_content", ["scancel"]), ("train_motion", ["scontrol", "requeue"])):
            subprocess.run([*command, job_of(project, rule)], check=True, timeout=30)
        process.wait(timeout=900)
    finally:
        process.kill()
    said = log.read_text()
    assert process.returncode == 0, said[-4000:]
    # With --profile the default one is loaded, too, and the cluster would run one GPU job at a time.
    assert not [line for line in said.splitlines() if line.startswith("Provided resources") and "gpu=" in line]
    for part in ("content", "motion"):
        assert "goes on at step" in (project.folder / f"logs/train_{part}/smoke.log").read_text()
    assert results(project) == plain


def test_the_cluster_profile_asks_for_gpus_memory_and_time():
    """What the executor will hand to sbatch, without a cluster."""
    project = Project(ROOT)
    said = project.ok("snakemake", "--workflow-profile", "profiles/slurm", "--dry-run", TARGET)
    motion = said.split("rule train_motion:")[1].split("rule ")[0]
    for wanted in ("gpu=1", "mem_mb=64000", "runtime=2880"):
        assert wanted in motion, motion
