"""Notebooks: how they are written, and that each runs, warnings as errors, by papermill, Snakemake and Jupyter."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import websocket
from project import ROOT, kernels, recipe

from vidm import weights
from vidm.errors import InputError

TEACHING = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = sorted((ROOT / "notebooks/figures").glob("*.ipynb"))
TOOLS = Path(sys.executable).parent
# Names of weights that a notebook needs, and its parameters at smoke size.
NEEDS = {"06": ["i3d"]}
SMOKE = {"06": {"clips": 6, "content_steps": 6, "motion_steps": 4, "measured": 2}}
SLOW = {"04", "06"}


def cells(path: Path, kind: str = "code") -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def number(path: Path) -> str:
    return path.name[:2]


# How they are written


def test_all_are_there():
    assert [number(path) for path in TEACHING] == ["01", "02", "03", "04", "05", "06"]
    assert [path.stem for path in FIGURES] == ["ablations", "latents", "metrics", "qualitative"]


@pytest.mark.parametrize("path", TEACHING + FIGURES, ids=lambda p: p.stem)
def test_no_output_is_in_git(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        assert not cell.get("outputs"), "clear all outputs before a commit"
        assert cell.get("execution_count") is None
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])


@pytest.mark.parametrize("path", TEACHING + FIGURES, ids=lambda p: p.stem)
def test_cells_are_short_and_define_little(path):
    for source in cells(path):
        if not source.startswith(("import ", "from ")):
            assert len(source.splitlines()) <= 15, source
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.ClassDef), source
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 13, source
    assert not re.search(r"/(home|root|work|tmp|mnt)/", "\n".join(cells(path) + cells(path, "markdown")))


@pytest.mark.parametrize("path", TEACHING, ids=lambda p: p.stem)
def test_a_lesson_has_goals_checks_and_exercises(path):
    text, code = cells(path, "markdown"), cells(path)
    assert text[0].startswith(f"# {int(number(path))} ") and "Goals:" in text[0]
    assert text[-1].startswith("## Exercises") and text[-1].count("\n") >= 4
    assert "\n".join(code).count("assert ") >= 6
    assert len(text) >= 0.9 * len(code), "a sentence before and after a picture"


# They run


def papermill(path: Path, folder: Path, cwd: Path = ROOT, **parameters) -> subprocess.CompletedProcess:
    out = folder / f"{path.stem}.ipynb"
    options = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    return subprocess.run(
        [str(TOOLS / "papermill"), "-k", "python3", "--no-progress-bar", *options, str(path), str(out)],
        cwd=cwd,
        env=kernels(folder),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def executed(request, tmp_path_factory):
    """The lessons that this session asks for, two at a time: {path: future}."""
    folder = tmp_path_factory.mktemp("lessons")
    asked = [item.callspec.params["path"] for item in request.session.items if "executed" in item.fixturenames]
    kernels(folder)
    with ThreadPoolExecutor(2) as pool:
        yield {
            path: pool.submit(papermill, path, folder, folder, **SMOKE.get(number(path), {}))
            for path in sorted(asked, key=lambda p: number(p) not in SLOW)
            if not missing(path)
        }


def missing(path: Path) -> str:
    """Why a lesson's weights can't be had, or ""."""
    try:
        for name in NEEDS.get(number(path), []):
            weights.fetch(name)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.pipeline] if number(p) in SLOW else []) for p in TEACHING],
    ids=lambda p: p.stem,
)
def test_a_lesson_runs_from_top_to_bottom(path, executed):
    if reason := missing(path):
        pytest.skip(reason)
    ended = executed[path].result()
    assert ended.returncode == 0, ended.stderr[-3000:]


# Figures


def test_a_figure_notebook_says_what_is_missing(tmp_path):
    """The report is not there, the curves are: their figure is drawn, and the report's command is named."""
    (tmp_path / "models/sky").mkdir(parents=True)
    for part in ("content", "motion"):
        (tmp_path / f"models/sky/{part}_loss.csv").write_text("step,samples,loss,lr\n1,2,0.5,1\n2,4,0.4,1\n")
    ended = papermill(ROOT / "notebooks/figures/metrics.ipynb", tmp_path, experiment="sky", root=tmp_path)
    assert ended.returncode != 0
    assert "make it: snakemake --cores all results/sky_fvd.json" in ended.stderr
    assert (tmp_path / "results/sky/figures/loss_curves.png").is_file()
    assert not (tmp_path / "results/sky/figures/fvd.png").exists()


def test_ablations_are_drawn_from_their_report(tmp_path):
    tables = {
        "3a": {"vanilla": {"fvd16": [500.0, 520.0, 480.0]}, "default": {"fvd16": [400.0, 410.0, 430.0]}},
        "3b": {"vanilla": {"fvd16": [600.0], "fvd64": [700.0]}, "default": {"fvd16": [400.0]}},
    }
    (tmp_path / "results").mkdir()
    cells = {"3b": {"vanilla": ["sky-ablation-vanilla-motion-s0"]}}
    report = {"experiment": "sky", "n": 8, "seeds": [0, 1, 2], "tables": tables, "cells": cells}
    (tmp_path / "results/sky_ablations.json").write_text(json.dumps(report), encoding="utf-8")
    ended = papermill(ROOT / "notebooks/figures/ablations.ipynb", tmp_path, experiment="sky", root=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    text = (tmp_path / "ablations.ipynb").read_text(encoding="utf-8")
    assert "| vanilla | 500.0 ± 20.0 |" in text
    assert "make it: snakemake --cores all results/sky-ablation-vanilla-motion-s0/samples/samples.h5" in text
    assert (tmp_path / "results/sky/figures/ablations.svg").is_file()


# The lab


class Lab:
    """A Jupyter server, spoken to as a browser does."""

    def __init__(self, port: int) -> None:
        self.host, self.token = f"127.0.0.1:{port}", "for-this-test"

    def ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.host}{path}", data)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def run(self, channel: websocket.WebSocket, code: str) -> list[dict]:
        """The messages that the kernel sends for a cell; AssertionError with its traceback where it fails."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "s",
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        channel.send(json.dumps(message))
        said = []
        while True:
            answer = json.loads(channel.recv())
            if answer["parent_header"].get("msg_id") != header["msg_id"] or answer["channel"] != "iopub":
                continue
            assert answer["msg_type"] != "error", "\n".join(answer["content"]["traceback"])
            said.append(answer)
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return said


def lab_command() -> list[str]:
    """What `make lab` starts, with this interpreter's tools."""
    fetch, lab = recipe("lab")
    assert fetch[:4] == [str(TOOLS / "vidm"), "weights", "fetch", "i3d"]
    assert lab[:2] == [str(TOOLS / "jupyter"), "lab"]
    return lab


@pytest.fixture
def lab(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(port)
    options = ["--no-browser", f"--ServerApp.port={port}", f"--IdentityProvider.token={lab.token}"]
    options += ["--allow-root"] if os.geteuid() == 0 else []
    with (tmp_path / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [*lab_command(), *options], cwd=ROOT, env=kernels(tmp_path), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "lab.log").read_text(encoding="utf-8")
            try:
                lab.ask("/api/status")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        yield lab
    finally:
        server.terminate()
        server.wait(60)


def test_the_lab_runs_the_first_lesson(lab):
    name = TEACHING[0].name
    assert name in {entry["name"] for entry in lab.ask("/api/contents")["content"]}
    document = lab.ask(f"/api/contents/{name}")["content"]
    wanted = {
        "path": name,
        "name": name,
        "type": "notebook",
        "kernel": {"name": document["metadata"]["kernelspec"]["name"]},
    }
    session = lab.ask("/api/sessions", wanted)
    address = f"ws://{lab.host}/api/kernels/{session['kernel']['id']}/channels?token={lab.token}"
    channel = websocket.create_connection(address, timeout=120)
    try:
        said = [lab.run(channel, "import sys; print(sys.prefix)")]
        said += [lab.run(channel, cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    finally:
        channel.close()
    prefix = [m["content"]["text"].strip() for m in said[0] if m["msg_type"] == "stream"]
    assert len(prefix) == 1 and Path(prefix[0]).samefile(sys.prefix), "the kernel is not this environment's"
    pictures = [m for cell in said for m in cell if "image/png" in m["content"].get("data", {})]
    assert len(pictures) == 6
