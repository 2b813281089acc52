"""The workflow's plan: which rules would run, and what makes them run again. Nothing is trained here."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from project import ROOT, Project, copy

from vidm import config
from vidm.data.video import encode
from vidm.pinned import SHA256

pytestmark = pytest.mark.pipeline
WHOLE = {"render", "extract", "weights", "train_content", "train_motion", "sample_smoke", "given", "evaluate"}
TARGET = "results/smoke_fvd.json"
CHEAP = (" weights", " share", " ablations", " ablation_tables", " tables", " figures:", " pages:")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return copy(tmp_path_factory.mktemp("workflow") / "a project")


def video(path: Path, seed: int, frames: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)
    encode(path, noise, 25)


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_lint_is_clean():
    ended = tool("snakemake", "--lint")
    assert ended.returncode == 0, ended.stderr


def test_snakefmt_is_clean():
    ended = tool("snakefmt", "--check", "Snakefile", "workflow")
    assert ended.returncode == 0, ended.stderr


def test_every_rule_logs_and_the_costly_ones_are_timed():
    text = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.split(r"^ *rule\b", text, flags=re.MULTILINE)[1:]
    assert len(rules) == 18
    for rule in rules:
        assert "log:" in rule and "conda:" in rule
        assert ("benchmark:" in rule) is not rule.startswith(CHEAP)


def test_whole_plan(project):
    assert project.planned(TARGET) == WHOLE
    assert "all" in project.planned()  # and the default target is sky
    assert "results/sky_fvd.json" in project.ok("snakemake", "--dry-run", "--cores", "1")


def test_more_cores_than_the_machine_has_stay_one_job_at_a_time(project):
    said = project.ok("snakemake", "--dry-run", "--cores", "64", TARGET)
    heavy = said.count("threads: 64")
    assert heavy == len(WHOLE) - 1  # all but the download take what is there, so no two run at once
    assert said.count("gpu=1") == 5


def test_bad_facts_stop_it_with_one_line(tmp_path):
    project = copy(tmp_path / "bad")
    project.replace("params.yaml", "sigma_min", "sigma_mn")
    ended = project.run("snakemake", "--dry-run", "--cores", "1", TARGET)
    assert ended.returncode != 0
    assert "sigma_mn: unknown key; did you mean 'sigma_min'?" in ended.stdout


def test_config_that_vidm_would_not_see_is_refused(project):
    ended = project.run("snakemake", "--dry-run", "--cores", "1", "--config", "model_version=2", "--", TARGET)
    assert ended.returncode != 0
    assert "don't reach vidm" in ended.stdout


def test_unknown_experiment_names_the_nearest(project):
    """In a few lines, whichever file it is asked by."""
    for target in (
        "results/smok_fvd.json",
        "results/smok_ablations.json",
        "results/Smoke/samples/contact_sheet.png",
        "results/smok/figures/index.html",
        "models/smok/content.safetensors",
    ):
        ended = project.run("snakemake", "--dry-run", "--cores", "1", target)
        assert ended.returncode == 1
        assert re.search(rf"^{target}: experiment '\w+' is not in .*; did you mean 'smoke", ended.stdout, re.MULTILINE)
        assert "Traceback" not in ended.stdout and ended.stdout.count("\n") < 6


def test_what_can_t_be_measured_is_said_before_it_is_trained(project):
    project.replace(
        "params.yaml", "experiments:\n", "experiments:\n  brief: {preset: laptop, dataset: smoke, frames: 8}\n"
    )
    for target in ("results/brief_fvd.json", "results/brief/report/videos.html"):
        ended = project.run("snakemake", "--dry-run", "--cores", "1", target)
        assert ended.returncode == 1
        assert "metrics.protocols.0: windows of" in ended.stdout and ended.stdout.count("\n") < 6
    assert {"train_content", "sample_brief"} <= project.planned("results/brief/samples/samples.h5")


def test_videos_from_real_first_frames_are_made_where_they_are_asked_for(tmp_path):
    """As many as there are first frames, of the first seed alone; what decides only about frame 0 makes none anew."""
    project = copy(tmp_path / "given")
    given = "results/smoke/given/samples.h5"
    said = project.ok("snakemake", "--dry-run", "--cores", "1", TARGET)
    assert "--first data/frames/smoke.h5 --most 4 --seed 0 --out results/smoke/given" in said
    assert f" --given {given} " in said
    facts = "sampling: {videos: 4, sheet: 4, content_steps: 4"
    project.replace("params.yaml", facts, f"{facts}, seeds: [7, 8]")
    assert "--most 4 --seed 7 --out" in project.ok("snakemake", "--dry-run", "--cores", "1", TARGET)
    project.replace("params.yaml", "metrics: {motion_only: 4}", "metrics: {motion_only: 0}")
    assert project.planned(TARGET) == WHOLE - {"given"}
    assert "--given" not in project.ok("snakemake", "--dry-run", "--cores", "1", TARGET)
    assert project.run("snakemake", "--dry-run", "--cores", "1", given).returncode


def test_other_files_are_not_taken_for_an_experiments(project):
    assert project.planned("results/tables/index.html") == {"tables", "tables_page"}
    ended = project.run("snakemake", "--cleanup-metadata", "results/gone_fvd.json")
    assert "metadata was not present" in ended.stdout


def test_declared_videos_are_as_many_as_the_sheet_shows(project):
    """Of every experiment that needs no footage; one of each kind."""
    params, kinds = config.load(ROOT / "params.yaml"), {}
    for name, experiment in params.experiments.items():
        if params.dataset(experiment.dataset).procedural is not None:
            kinds.setdefault((experiment.dataset, experiment.sampling.sheet, experiment.sampling.videos), name)
    said = project.ok(
        "snakemake", "--dry-run", "--cores", "1", *(f"results/{name}_fvd.json" for name in kinds.values())
    )
    for (_, sheet, videos), name in kinds.items():
        (outputs,) = re.findall(rf"output: (results/{name}/samples/samples\.h5.*)", said)
        assert outputs.count(".mp4") == min(sheet, videos), name


def test_an_experiment_takes_anothers_networks(project):
    """content_of and motion_of: the other one's are trained, and copied."""
    name = "results/sky-only-content_fvd.json"
    assert {"train_content", "train_motion", "share", "evaluate"} <= project.planned(name)
    said = project.ok("snakemake", "--dry-run", "--cores", "1", name)
    for own, theirs in (("content", "sky"), ("motion", "sky-paper")):
        assert f"vidm train {own} {theirs} " in said
        assert f"cp models/{theirs}/{own}.safetensors models/sky-only-content/{own}.safetensors" in said
    assert "vidm train content sky-paper" not in said


def test_ablations_train_what_differs_and_no_cell_twice(project):
    """Four content networks and four motion networks a seed, seven cells; the other networks are copies."""
    said = project.ok("snakemake", "--dry-run", "--cores", "1", "results/sky_ablations.json")
    for part in ("content", "motion"):
        trained = re.findall(rf"vidm train {part} (\S+) ", said)
        assert len(trained) == len(set(trained)) == 4 * 3
        assert all(f"sky-ablation-default-s{seed}" in trained for seed in range(3))
    assert len(set(re.findall(r"vidm evaluate (\S+) ", said))) == 7 * 3
    assert "rule evaluate_cell:" in said and "rule evaluate:" not in said  # no entries of the report
    for seed in range(3):
        for row, part in (("without-truncation", "motion"), ("without-posgn", "content")):
            ours, theirs = (f"models/sky-ablation-{name}-s{seed}/{part}.safetensors" for name in (row, "default"))
            assert f"cp {theirs} {ours}" in said
    ended = project.run("snakemake", "--dry-run", "--cores", "1", "results/sky256_ablations.json")
    assert ended.returncode != 0 and "experiment 'sky256' has no ablations in params.yaml" in ended.stdout


def test_the_table_and_the_figure_need_the_cells_file_alone(tmp_path):
    """As after a cluster made the cells: their reports and networks are not made again for it."""
    project = copy(tmp_path / "from a cluster")
    (project.folder / "results").mkdir()
    (project.folder / "results/sky_ablations.json").write_text("{}", encoding="utf-8")
    assert project.planned("results/tables/sky_ablations.md") == {"ablation_tables"}


def test_shards_are_jobs_of_their_own_and_then_gathered(tmp_path):
    project = copy(tmp_path / "shards")
    project.replace("params.yaml", "sampling: {videos: 4, ", "sampling: {videos: 4, shards: 2, ")
    assert project.planned(TARGET) == WHOLE | {"shard_smoke"}
    said = project.ok("snakemake", "--dry-run", "--cores", "1", TARGET)
    files = [f"results/smoke/shards/4-by-2/shard_{k}_of_2.h5" for k in (1, 2)]
    assert "--shard 1/2 --out results/smoke/shards/4-by-2" in said and "--shard 2/2 " in said
    assert f"vidm gather smoke {' '.join(files)} --out results/smoke/samples" in said
    project.replace("params.yaml", "shards: 2, ", "shards: 5, ")
    ended = project.run("snakemake", "--dry-run", "--cores", "1", TARGET)
    assert "sampling.shards: 5 is more than videos = 4; nearest: 4" in ended.stdout


def test_own_videos_and_what_makes_their_extraction_run_again(tmp_path):
    project = copy(tmp_path / "own")
    frames, raw = "data/frames/smoke.h5", project.folder / "data/raw/smoke"
    names = ["a.mp4", "sub folder/b.mp4", "c'\"{d}\n$(touch gone).mp4", "e.mp4"]
    for seed, name in enumerate(names):
        video(raw / name, seed)
    assert project.planned(TARGET) == WHOLE - {"render"}
    project.ok("snakemake", "--cores", "1", frames)
    assert not list(project.folder.glob("**/gone*"))
    assert project.planned(frames) == set()

    for name in ("README.md", "a.mp4.dvc", ".gitignore"):
        (raw / name).write_text("no video\n", encoding="utf-8")
    assert project.planned(frames) == set()
    (raw / "a.mp4").touch()
    assert project.planned(frames) == set(), "a new time alone is what git and dvc checkout make"
    before = (raw / "a.mp4").read_bytes()

    video(raw / "a.mp4", 9)
    assert project.planned(frames) == {"extract"}, "replaced"
    (raw / "a.mp4").write_bytes(before)
    assert project.planned(frames) == set()
    video(raw / "f.mp4", 5)
    assert project.planned(frames) == {"extract"}, "added"
    (raw / "f.mp4").rename(raw / "e.mp4")
    assert project.planned(frames) == {"extract"}, "replaced by another, none more"

    for path in raw.rglob("*.mp4"):
        path.unlink()
    ended = project.run("snakemake", "--dry-run", "--cores", "1", frames)
    assert ended.returncode != 0 and "dvc pull" in ended.stdout, "what DVC keeps is not replaced by the embedded sky"
    (raw / "a.mp4.dvc").unlink()
    assert project.planned(frames) == {"render", "extract"}


def test_another_pinned_spynet_is_fetched_and_trained_from(tmp_path):
    """Its file's hash is a param of the rule that fetches it."""
    project, spynet = copy(tmp_path / "pinned"), "data/weights/spynet-procedural.safetensors"
    motion = [f"models/smoke/motion{end}" for end in (".safetensors", "_loss.csv", "_run.json")]
    for name in ("data/frames/smoke.h5", *motion):
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / name).write_text("made before\n", encoding="utf-8")
    project.ok("snakemake", "--cores", "1", spynet)
    project.ok("snakemake", "--cores", "1", "--touch", motion[0])
    assert project.planned(motion[0]) == set()
    project.replace("vidm/pinned.py", SHA256["i3d"], "0" * 64)
    assert project.planned(motion[0]) == set(), "another file's hash"
    project.replace("vidm/pinned.py", SHA256["spynet-procedural"], "0" * 64)
    assert project.planned(motion[0]) == {"weights", "train_motion"}


def test_no_video_and_nothing_to_render(tmp_path):
    project = copy(tmp_path / "none")
    text = (project.folder / "params.yaml").read_text(encoding="utf-8")
    (project.folder / "params.yaml").write_text(re.sub(r"    procedural: .*\n", "", text), encoding="utf-8")
    ended = project.run("snakemake", "--dry-run", "--cores", "1", TARGET)
    assert ended.returncode == 1
    assert f"\n{TARGET}: data/raw/smoke: no video there" in ended.stdout
    assert "Traceback" not in ended.stdout


def training_of(project, *options: str) -> tuple[str, dict[str, str]]:
    """What smoke's motion training would run, and what it asks for."""
    said = project.ok("snakemake", "--dry-run", *options, TARGET).split("rule train_motion:")[1].split("\nrule ")[0]
    command = re.search(r"Shell command: (.*) 2>&1", said)[1]
    asked = re.search(r"resources: (.*)", said)[1].split(", ")
    return command, dict(entry.split("=", 1) for entry in asked)


def test_how_it_runs_is_in_the_command_and_what_it_asks_for(tmp_path):
    """One GPU, none, several, several nodes: the line that starts it, and the line that SLURM gets."""
    submit = pytest.importorskip("snakemake_executor_plugin_slurm.submit_string")
    utils = pytest.importorskip("snakemake_executor_plugin_slurm.utils")
    project = copy(tmp_path / "how")
    path = project.folder / "params.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))

    def asked(*options, **running):
        document["experiments"]["smoke"]["running"] = running
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return training_of(project, *options)

    def sbatch(found: dict[str, str]) -> str:
        job = SimpleNamespace(resources=Resources(found), threads=8)
        params = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"), "")
        settings = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)
        return submit.get_submit_command(job, params, settings) + utils.set_gres_string(job)

    slurm = ("--workflow-profile", "profiles/slurm")
    command, found = asked("--cores", "2")
    assert command.startswith("vidm train motion smoke --frames") and found["gpu"] == "1"
    assert "--gpus=1" in sbatch(asked(*slurm)[1])

    command, found = asked(*slurm, gpus=0)
    assert command.startswith("vidm train motion smoke") and "gpu" not in sbatch(found)

    command, found = asked(*slurm, gpus=4)
    assert command.startswith("vidm gpus --take 4 -- torchrun --standalone --nproc-per-node=4 ")
    assert "-m vidm.cli train motion smoke --frames" in command
    line = sbatch(found)
    for wanted in ("--gpus=4", "--mem 64000", "-t 2880", "--requeue", "--cpus-per-task=8"):
        assert wanted in line, line
    assert "--nodes" not in line

    command, found = asked(*slurm, gpus=4, nodes=2)
    # The cores are those that snakemake has inside of the job; a dry run has one.
    assert re.match(r"bash workflow/scripts/nodes\.sh 2 4 \d+ train motion smoke --frames", command), command
    line = sbatch(found)
    for wanted in ("--nodes=2", "--ntasks=2", "--gres=gpu:4", "--mem 64000", "-t 2880", "--requeue"):
        assert wanted in line, line
    assert "--gpus" not in line and "ntasks-per-gpu" not in line
    assert found["mpi"] == "srun"  # else the executor would start it on one node alone


class Resources(dict):
    """A job's resources as the executor reads them."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__({k: int(v) if v.isdigit() else v for k, v in found.items()})

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_every_process_of_a_job_saves(name, tmp_path, frames):
    """What a cluster does before it takes a node back: Snakemake, the shell, vidm and tee all get it."""
    project = copy(tmp_path / name)
    (project.folder / "data/frames").mkdir(parents=True)
    os.link(frames, project.folder / "data/frames/smoke.h5")
    project.replace("params.yaml", "      training: {steps: 4, batch: 4, warmup: 1}\n    motion", LONGER)
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "1", "models/smoke/content.safetensors"]
    log = project.folder / "logs/train_content/smoke.log"
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            command, cwd=project.folder, env=project.environment(), stdout=file, stderr=file, start_new_session=True
        )
        while process.poll() is None and not list(project.folder.glob("runs/smoke/content-*/preview/*.png")):
            time.sleep(0.05)
        os.killpg(process.pid, getattr(signal, name))
        assert process.wait(timeout=120) != 0
    assert re.search(rf"content: {name} at step \d+ of 120; saved in", log.read_text()), said.read_text()
    assert list(project.folder.glob("runs/smoke/content-*/step-*.safetensors"))
    project.ok(*command)
    assert "goes on at step" in log.read_text()


LONGER = """      training: {steps: 120, batch: 4, warmup: 1}
    running: {preview_steps: 20}
    motion"""


@pytest.fixture(scope="module")
def frames(project) -> Path:
    project.ok("snakemake", "--cores", "1", "data/frames/smoke.h5")
    return project.folder / "data/frames/smoke.h5"
