"""The documentation builds without a warning or a network, covers what there is, and its picture is the graph."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, recipe

from vidm import config

pytest.importorskip("sphinx", reason="no Sphinx: pip install -e '.[docs]'")
AWAY = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built by the command of `make docs`: each link inside leads somewhere, or it fails."""
    (build, _) = recipe("docs")
    out = tmp_path_factory.mktemp("site")
    (place,) = [k for k, word in enumerate(build) if word.endswith("_build/html")]
    build[place : place + 1] = [str(out), "--doctree-dir", str(out / "doctrees")]
    # A proxy where nobody listens: a build that asks the network for something fails.
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(build, cwd=ROOT, env=os.environ | proxy, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return out


def test_pages_ask_no_server(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert not AWAY.search(page.read_text(encoding="utf-8")), page


def test_every_page_is_in_the_menu():
    written = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([a-z/-]+)$", text, flags=re.MULTILINE)) | {"index"}
    assert {p for p in written if not p.startswith(("reference/api/", "_build/"))} == listed - {"reference/api/index"}


def test_reference_has_every_key_command_and_module(site):
    params = (site / "reference/params.html").read_text(encoding="utf-8")
    for group in config.schema()["$defs"].values():
        for key in group.get("properties", {}):
            assert f">{key}</span>" in params, key
    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    said = subprocess.run(
        [sys.executable, "-m", "vidm.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for command in re.findall(r"^  ([a-z]+)  ", said.stdout, flags=re.MULTILINE):
        assert f"vidm {command}" in commands
    for layer in ("data", "models", "diffusion", "training", "sampling", "metrics"):
        page = (site / f"reference/api/{layer}.html").read_text(encoding="utf-8")
        for module in (ROOT / "vidm" / layer).glob("[a-z]*.py"):
            assert f'id="module-vidm.{layer}.{module.stem}"' in page, module


def test_the_picture_is_the_rule_graph():
    command = [str(Path(sys.executable).parent / "snakemake"), "--rulegraph", "dot", "results/sky_fvd.json"]
    dot = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)', dot))
    edges = {f"{names[a]}--{names[b]}" for a, b in re.findall(r"(\d+) -> (\d+)", dot)}
    drawn = re.findall(r'<g id="([a-z_]+--[a-z_]+)">', (ROOT / "docs/dag.svg").read_text(encoding="utf-8"))
    assert set(drawn) == edges, "another graph: python docs/dag.py"
