"""A SLURM cluster of one node with one GPU that is none, started as root and stopped again: for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PLACE = Path("/etc/slurm")  # the executor strips SLURM_CONF from a job's environment; this place is looked at anyway
FILES = ("slurm.conf", "gres.conf")


def missing() -> str:
    """Why no cluster can be started here, or ""."""
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(name) is None:
            return f"{name} is not installed (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "the daemons of a cluster start as root only"
    if any((PLACE / name).exists() for name in FILES):
        return f"{PLACE} has a configuration already"
    return ""


def _configuration(folder: Path, cpus: int) -> str:
    host = socket.gethostname().split(".")[0]
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    facts = {
        "ClusterName": "vidm",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # A requeued job waits for the old one's credential to expire: 120 s, if nothing else is said.
        "AuthInfo": f"socket={folder}/munge.socket,cred_expire=30",
        "CredType": "cred/munge",
        "SlurmctldPort": 26817,
        "SlurmdPort": 26818,
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerParameters": "sched_interval=2,bf_interval=2,sched_min_interval=0,requeue_delay=0",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "KillWait": 10,
        "PropagateResourceLimits": "NONE",
        "GresTypes": "gpu",
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={cpus} CoresPerSocket={cpus} RealMemory={megabytes} Gres=gpu:1",
        "PartitionName": f"all Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    }
    return "".join(f"{key}={value}\n" for key, value in facts.items())


@contextlib.contextmanager
def cluster(folder: Path, cpus: int = 4) -> Iterator[None]:
    """Up while entered, its state and logs in `folder`. Raises RuntimeError where it does not come up."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(_configuration(folder, cpus))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o711)
    PLACE.mkdir(exist_ok=True)
    for name in FILES:
        (PLACE / name).symlink_to(folder / name)
    try:
        # --force: munged wants every folder above its files to be safe, which those of a test are not.
        munge = [f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
        _start("munged", "--force", *munge, f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed")
        _start("slurmctld", "-c", "-f", str(folder / "slurm.conf"))
        _start("slurmd", "-f", str(folder / "slurm.conf"))
        _until_idle(folder)
        yield
    finally:
        said("scancel", "--state=RUNNING,PENDING", "--user=root")
        said("scontrol", "shutdown")
        time.sleep(1)
        for daemon in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{daemon}.pid").read_text()), 15)
        for name in FILES:
            (PLACE / name).unlink(missing_ok=True)


def said(*command: str) -> str:
    """What a SLURM command prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def _start(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)


def _until_idle(folder: Path) -> None:
    for _ in range(120):
        state = said("sinfo", "--noheader", "--format=%T").strip()
        if state == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-500:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"the cluster did not come up (node: {state})\n{logs}")
