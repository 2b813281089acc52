"""The training command as a user runs it, killed in every way: it ends with the bytes of the run that was not.

VIDM_KILLS=20 kills twenty times in the place of three.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from vidm import config

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("VIDM_KILLS", "3"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# The command, with each step's loss in the curve rather than the mean of ten.
EACH_STEP = "from vidm.training import loop\nloop.LOG_EVERY = 1\nfrom vidm import cli\ncli.main()\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory, store):
    """A folder with a params.yaml of tiny experiments; `dots` saves after every step and draws after every fourth."""
    folder = tmp_path_factory.mktemp("project")
    # As little to compute as there can be; motion brings its SpyNet along.
    network = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "head_channels": 8, "groups": 4}
    training = {"steps": 40, "batch": 4, "lr": 1e-3, "warmup": 5, "decay": "cosine", "precision": "fp32"}
    killed = {
        "dataset": "dots",
        "frames": 4,
        "running": {"checkpoint_minutes": 0.0, "keep": 2, "preview_steps": 4, "dvclive": False},
        "content": {"network": network | {"dropout": 0.1}, "training": training},
        "motion": {"network": network, "training": training | {"steps": 12}, "spynet": "none"},
    }
    pair = killed | {"content": {"network": network, "training": training | {"steps": 20}}}
    quiet = {"checkpoint_minutes": 0.0, "dvclive": False}
    document = {
        "model_version": 1,
        "datasets": {"dots": {"raw": "data/raw/dots", "resolution": 16, "min_frames": 4}},
        "experiments": {
            "dots": killed,
            "pair": pair | {"running": quiet},
            "far": pair | {"running": quiet | {"nodes": 2, "gpus": 0}},
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (folder / "each_step.py").write_text(EACH_STEP, encoding="utf-8")
    config.load(folder / "params.yaml")
    return folder


def start(project, *words, **environment):
    """A program in the project's folder, its output kept."""
    return subprocess.Popen(
        [*map(str, words)],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def arguments(store, part, out, runs, experiment):
    return ["train", part, experiment, "--frames", store, "--out", out, "--runs", runs]


def command(project, store, part, out, runs, *launcher, experiment="dots"):
    launcher = launcher or ("-m", "vidm.cli")
    return start(project, sys.executable, *launcher, *arguments(store, part, out, runs, experiment))


def ended(process):
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def done(process):
    code, said = ended(process)
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def plain(project, store, tmp_path_factory):
    """{part: file} of runs that nothing happened to."""
    folder = tmp_path_factory.mktemp("plain")
    files = {part: folder / f"{part}.safetensors" for part in ("content", "motion")}
    for part, file in files.items():
        done(command(project, store, part, file, folder / "runs"))
    return files


def names(folder):
    """Names below the run folders of an experiment: `folder` is runs/EXPERIMENT."""
    return {path.name for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern)}


def newest(runs, experiment="dots"):
    saved = (n for n in names(runs / experiment) if n.startswith("step-") and n.endswith(".safetensors"))
    return max(saved, default="")


def until(process, seen, pause=0.02):
    """Wait until `seen()`, or the process is over."""
    while process.poll() is None and not seen():
        time.sleep(pause)


def kill_in(moment, process, runs, chance):
    """SIGKILL in a step, in a save or in a sample sheet. False where the process was over before."""
    if moment == "step":
        reached = newest(runs)
        until(process, lambda: newest(runs) > reached)
        time.sleep(chance.uniform(0, 0.15))
    else:
        ending = {"save": ".safetensors.", "sheet": ".png."}[moment]
        before = names(runs / "dots")  # what an earlier kill left may be there until this process has the lock
        # That file is there for milliseconds.
        until(process, lambda: any(ending in n and n.endswith(".tmp") for n in names(runs / "dots") - before), 0.001)
    alive = process.poll() is None
    process.kill()
    ended(process)
    return alive


@pytest.mark.parametrize("part", ["content", "motion"])
def test_killed_at_random_it_ends_bit_equal(part, plain, project, store, tmp_path):
    out, runs = tmp_path / f"{part}.safetensors", tmp_path / "runs"
    chance, wanted = random.Random(part), KILLS if part == "content" else 1
    for k in range(wanted):
        process = command(project, store, part, out, runs)
        assert kill_in(("step", "sheet", "save")[k % 3], process, runs, chance), f"it ended before kill {k + 1}"
    said = done(command(project, store, part, out, runs))
    assert "goes on at step" in said
    assert out.read_bytes() == plain[part].read_bytes()
    curves = [file.with_name(f"{part}_loss.csv").read_bytes() for file in (out, plain[part])]
    assert curves[0] == curves[1]
    assert not [name for name in names(runs / "dots") if name.endswith(".tmp")]


def test_sigterm_exits_with_75_and_one_line(plain, project, store, tmp_path):
    out, runs = tmp_path / "content.safetensors", tmp_path / "runs"
    process = command(project, store, "content", out, runs)
    until(process, lambda: newest(runs))
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 75, said
    assert "content: SIGTERM at step" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not out.exists()
    done(command(project, store, "content", out, runs))
    assert out.read_bytes() == plain["content"].read_bytes()


def losses(out):
    with out.with_name("content_loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def two(project, store, tmp_path_factory):
    """What two processes make, half of the batch each."""
    out = tmp_path_factory.mktemp("two") / "content.safetensors"
    launcher = (*TORCHRUN, "each_step.py")
    done(command(project, store, "content", out, out.parent / "runs", *launcher, experiment="pair"))
    return out


def test_two_processes_are_one(two, project, store, tmp_path):
    """gloo: the loss of each of 20 steps, to 1e-5."""
    out = tmp_path / "content.safetensors"
    done(command(project, store, "content", out, tmp_path / "runs", "each_step.py", experiment="pair"))
    assert len(losses(out)) == 20
    assert losses(two) == pytest.approx(losses(out), abs=1e-5)


def test_two_processes_stop_together_and_go_on(two, project, store, tmp_path):
    """SIGTERM to torchrun, as a cluster sends it: one state is saved, and it ends as if nothing had been."""
    out, runs = tmp_path / "content.safetensors", tmp_path / "runs"
    process = command(project, store, "content", out, runs, *TORCHRUN, "each_step.py", experiment="pair")
    until(process, lambda: newest(runs, "pair"))
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code != 0 and not out.exists()
    assert "content: SIGTERM at step" in said, said
    again = done(command(project, store, "content", out, runs, *TORCHRUN, "each_step.py", experiment="pair"))
    assert "goes on at step" in again
    assert out.read_bytes() == two.read_bytes()


# What SLURM would do, on this machine: a step has a task on each node, and each task knows its step.
SRUN = r"""#!/bin/sh
printf '%s ' "$@" >> "$SAID"
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_NODELIST=nodes
"$@" & first=$!
"$@" & second=$!
wait $first && wait $second
"""
SCONTROL = "#!/bin/sh\necho localhost\necho elsewhere\n"


def test_several_nodes_meet(two, project, store, tmp_path):
    """The script that starts a training on the nodes of a SLURM job, with two nodes that are this machine."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    out, said = tmp_path / "far" / "content.safetensors", tmp_path / "said"
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    words = ["bash", ROOT / "workflow/scripts/nodes.sh", 2, 1, 3, *arguments(store, "content", out, out.parent, "far")]
    done(start(project, *words, PATH=path, SAID=str(said), SLURM_JOB_ID=str(os.getpid())))
    asked = said.read_text(encoding="utf-8")
    assert asked.startswith("--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=3 bash ")
    made, expected = load_file(out), load_file(two)
    assert made.keys() == expected.keys()
    assert all(made[key].equal(expected[key]) for key in made)


def test_several_nodes_without_a_cluster(project, store, tmp_path):
    words = [ROOT / "workflow/scripts/nodes.sh", 2, 1, 3, *arguments(store, "content", tmp_path / "o", tmp_path, "far")]
    code, said = ended(start(project, "/bin/bash", *words, PATH=str(tmp_path)))
    assert code == 2
    assert said == "vidm: running.nodes: 2 asked for, but this is no SLURM cluster (no srun); set it to 1\n"
