"""Snakemake owns the steps, DVC the bytes: neither makes the other do its work again. One tiny run of everything."""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project, copy, recipe
from test_workflow import video

pytestmark = pytest.mark.pipeline
TARGET = "results/smoke_fvd.json"


def for_smoke(project: Project) -> None:
    """The project's own dvc.yaml, for the experiment that takes a minute."""
    project.replace("dvc.yaml", "sky", "smoke")
    project.replace("dvc.yaml", "--cores all", "--cores 1")
    (project.folder / "dvc.lock").unlink(missing_ok=True)  # of the real run
    project.commit("dvc.yaml for smoke")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Project:
    """Run by Snakemake, then by DVC; pushed to a folder."""
    folder = tmp_path_factory.mktemp("dvc")
    project = copy(folder / "made")
    for_smoke(project)
    project.ok("snakemake", "--cores", "1", TARGET)
    return project


@pytest.fixture(scope="module")
def repeated(made) -> dict:
    """After Snakemake's run: what `dvc repro` did, and the times of all files before and after it."""
    before = made.times()
    said = made.ok("dvc", "repro")
    return {"said": said, "before": before, "after": made.times()}


@pytest.fixture(scope="module")
def pushed(made, repeated) -> Project:
    made.ok("dvc", "remote", "add", "--default", "storage", str(made.folder.parent / "remote"))
    made.commit("run")
    made.ok("dvc", "push")
    return made


def clone(of: Project, folder: Path) -> Project:
    of.ok("git", "clone", "-q", str(of.folder), str(folder))
    return Project(folder)


def test_snakemake_twice(made):
    assert made.planned(TARGET) == set()


def test_every_kept_output_is_one_of_dvcs(made):
    stages = yaml.safe_load((made.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    entries = [e for stage in stages.values() for key in ("outs", "plots", "metrics") for e in stage.get(key, [])]
    names = [name for entry in entries for name in entry]
    assert all(options["persist"] for entry in entries for options in entry.values())
    for name in made.times():
        assert any(name == out or name.startswith(f"{out}/") for out in names), f"{name} is in no stage"
    for name in names:
        assert (made.folder / name).exists(), name


def test_dvc_repro_after_snakemake_makes_nothing_anew(repeated):
    assert repeated["said"].count("Nothing to be done") == 4
    assert repeated["before"] == repeated["after"]


def test_dvc_repro_twice_runs_nothing(made, repeated):
    assert "snakemake" not in made.ok("dvc", "repro")
    assert made.planned(TARGET) == set()


def test_metrics_and_plots_are_declared(made, repeated):
    shown = json.loads(made.ok("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"][TARGET]["data"]["fvd"] > 0
    made.ok("dvc", "plots", "show", "--out", "plots", "models/smoke/motion_loss.csv")
    shutil.rmtree(made.folder / "plots")
    table = made.ok("dvc", "exp", "show", "--csv")
    for column in ("device_hours", "wall_seconds", "samples"):
        assert f"models/smoke/motion_run.json:{column}" in table.splitlines()[0]


def test_dvc_shows_a_run_while_it_runs(made):
    """The commands of docs/training.md, on files that neither git nor DVC tracks."""
    (folder,) = made.folder.glob("runs/smoke/motion-*/live")
    live = str(folder.relative_to(made.folder))
    shown = json.loads(made.ok("dvc", "metrics", "show", "--json", f"{live}/metrics.json"))
    last = shown[""]["data"][f"{live}/metrics.json"]["data"]
    assert last["step"] == 4 and last["samples"] == 16
    plots = json.loads(made.ok("dvc", "plots", "show", "--json", f"{live}/plots/metrics/loss.tsv"))
    (plot,) = plots["data"][f"{live}/plots/metrics/loss.tsv"]
    assert [float(row["loss"]) for row in plot["content"]["data"]["values"]] == [last["loss"]]


def test_how_it_runs_trains_nothing_again(made):
    made.replace("params.yaml", "  smoke:\n    preset:", "  smoke:\n    running: {gpus: 2, workers: 1}\n    preset:")
    assert made.planned(TARGET) == set()
    made.ok("git", "checkout", "params.yaml")


def test_pull_without_a_remote(tmp_path):
    ended = copy(tmp_path / "alone").run("python", "workflow/scripts/pull.py")
    assert ended.returncode == 2
    assert ended.stdout.count("\n") == 1 and "dvc remote add" in ended.stdout


def test_pull_takes_the_target_from_make():
    (command,) = recipe("pull")
    assert command[1:] == ["workflow/scripts/pull.py"]
    (command,) = recipe("pull", "TARGET=results/waves_fvd.json")
    assert command[1:] == ["workflow/scripts/pull.py", "results/waves_fvd.json"]


def test_fresh_clone_without_raw_data_pulls_and_has_nothing_to_do(pushed, tmp_path):
    fresh = clone(pushed, tmp_path / "fresh")
    assert not (fresh.folder / "data/raw/smoke").exists()
    said = fresh.ok("python", "workflow/scripts/pull.py", TARGET)
    assert said.splitlines()[-1].endswith("up to date")
    assert fresh.planned(TARGET) == set()
    assert "snakemake" not in fresh.ok("dvc", "repro")
    assert fresh.times().keys() == pushed.times().keys()
    # What was pulled still knows its parameters: a change is seen.
    fresh.replace("params.yaml", "conditioning_noise: 0.05", "conditioning_noise: 0.1")
    assert fresh.planned(TARGET) == {"train_motion", "sample_smoke", "given", "evaluate"}


def test_pull_blesses_nothing_that_is_missing_or_of_other_data(pushed, tmp_path):
    fresh = clone(pushed, tmp_path / "fresh")
    video(fresh.folder / "data/raw/smoke/a.mp4", 1)
    ended = fresh.run("python", "workflow/scripts/pull.py", TARGET)
    assert ended.returncode == 2 and "data/raw (frames)" in ended.stdout
    shutil.rmtree(fresh.folder / "data/raw/smoke")
    lock = yaml.safe_load((fresh.folder / "dvc.lock").read_text(encoding="utf-8"))
    del lock["stages"]["weights"]
    (fresh.folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    shutil.rmtree(fresh.folder / "data/weights")
    ended = fresh.run("python", "workflow/scripts/pull.py", TARGET)
    assert ended.returncode == 2 and "data/weights/" in ended.stdout


def test_pull_asks_for_what_the_target_needs(pushed, tmp_path):
    """Not for another experiment's bytes, which this remote never had."""
    fresh = clone(pushed, tmp_path / "fresh")
    theirs = {"cmd": "true", "outs": [{"results/theirs_fvd.json": {"persist": True}}]}
    missing = [{"path": "results/theirs_fvd.json", "hash": "md5", "md5": "0" * 32, "size": 1}]
    for name, stage in (("dvc.yaml", theirs), ("dvc.lock", theirs | {"outs": missing})):
        path = fresh.folder / name
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["stages"]["theirs"] = stage
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
    ended = fresh.run("python", "workflow/scripts/pull.py", "results/smok_fvd.json")
    assert ended.returncode == 2 and ended.stdout.startswith("pull: no stage of dvc.yaml makes results/smok_fvd.json")
    said = fresh.ok("python", "workflow/scripts/pull.py", TARGET)
    assert said.splitlines()[-1].endswith("up to date")


def test_videos_added_then_kept_by_dvc(pushed, tmp_path):
    fresh = clone(pushed, tmp_path / "fresh")
    fresh.ok("python", "workflow/scripts/pull.py", TARGET)
    raw = fresh.folder / "data/raw/smoke"
    for seed, name in enumerate(["a.mp4", "b.mp4", "c.mp4", "d.mp4"]):
        video(raw / name, seed)
    assert "data/raw" in fresh.ok("dvc", "status", "frames")
    said = fresh.ok("dvc", "repro", "frames")
    assert "vidm data extract data/raw/smoke" in said and "vidm data render" not in said
    before = fresh.times()

    fresh.ok("dvc", "add", *(f"data/raw/smoke/{name}" for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4")))
    assert fresh.planned("data/frames/smoke.h5") == set()
    fresh.ok("dvc", "repro", "frames")
    assert fresh.times() == before
    assert "snakemake" not in fresh.ok("dvc", "repro", "frames")
    tracked = fresh.ok("git", "status", "--porcelain", "--untracked-files=all", "data/raw").splitlines()
    assert sorted(line.split("/")[-1] for line in tracked) == [f"{n}.mp4.dvc" for n in "abcd"]

    # Someone else gets the videos with the results, and nothing runs there either.
    fresh.commit("videos")
    fresh.ok("dvc", "push")
    other = clone(fresh, tmp_path / "other")
    other.ok("dvc", "pull", "--with-deps", "frames")
    assert sorted(path.name for path in (other.folder / "data/raw/smoke").glob("*.mp4")) == [f"{n}.mp4" for n in "abcd"]
    other.ok("snakemake", "--cores", "1", "--touch", "--forceall", "data/frames/smoke.h5")
    assert other.planned("data/frames/smoke.h5") == set()
    assert "snakemake" not in other.ok("dvc", "repro", "frames")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The address of an S3 server of this machine, with a bucket `lab`; a skip where there is none to start."""
    for module in ("moto", "flask", "dvc_s3"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: pip install -c constraints.txt -e '.[s3,s3-test]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server:
        address = f"http://127.0.0.1:{port}"
        bucket = urllib.request.Request(f"{address}/lab", method="PUT")
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(bucket, timeout=10).close()
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, Path(log.name).read_text(encoding="utf-8")
                    time.sleep(0.1)
            yield address
        finally:
            server.kill()


def test_the_same_through_an_s3_server(pushed, s3, tmp_path, monkeypatch):
    """Frames, weights, results and raw videos; the folder that held them before is gone for the other side."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fresh = clone(pushed, tmp_path / "fresh")
    fresh.ok("python", "workflow/scripts/pull.py", TARGET)
    fresh.ok("dvc", "remote", "add", "--default", "bucket", "s3://lab/vidm")
    fresh.ok("dvc", "remote", "modify", "bucket", "endpointurl", s3)
    fresh.ok("dvc", "remote", "remove", "storage")
    fresh.commit("S3")
    fresh.ok("dvc", "push")

    other = clone(fresh, tmp_path / "other")
    assert "storage" not in other.ok("dvc", "remote", "list")
    said = other.ok("python", "workflow/scripts/pull.py", TARGET)
    assert said.splitlines()[-1].endswith("up to date")
    assert other.planned(TARGET) == set()
    assert other.times().keys() == pushed.times().keys()

    video(fresh.folder / "data/raw/mine/a.mp4", 1)
    fresh.ok("dvc", "add", "data/raw/mine/a.mp4")
    fresh.commit("a video")
    fresh.ok("dvc", "push")
    other.ok("git", "pull", "-q")
    other.ok("dvc", "pull", "data/raw/mine/a.mp4.dvc")
    raw = Path("data/raw/mine/a.mp4")
    assert (other.folder / raw).read_bytes() == (fresh.folder / raw).read_bytes()


def test_lock_is_of_a_real_run():
    path = ROOT / "dvc.lock"
    if not path.exists():
        pytest.skip("no dvc.lock: the real run was not made yet")
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert lock.keys() == stages.keys()
    for name, stage in stages.items():
        outs = {n for key in ("outs", "plots", "metrics") for entry in stage.get(key, []) for n in entry}
        assert {out["path"] for out in lock[name]["outs"]} == outs
        assert lock[name]["cmd"] == stage["cmd"]


def test_the_package_s_weights_are_those_of_their_pipeline(tmp_path):
    here = copy(tmp_path / "here")
    stage = "workflow/pretrained/dvc.yaml"

    def outs() -> list:
        (changed,) = json.loads(here.ok("dvc", "status", "--json", stage)).values() or [[]]
        return [entry["changed outs"] for entry in changed if isinstance(entry, dict) and "changed outs" in entry]

    assert outs() == []
    (here.folder / "vidm/pretrained/sky/card.md").write_text("another\n", encoding="utf-8")
    assert outs() == [{"vidm/pretrained/sky": "modified"}]
