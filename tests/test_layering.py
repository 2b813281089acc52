"""Imports point down, and the core needs nothing that a GPU node lacks."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vidm"

# From the top down. A module may import its own layer and those below it.
LAYERS = [
    {"cli"},
    {"training", "sampling", "metrics", "plotting"},
    {"diffusion"},
    {"models"},
    {"data", "weights"},
    {"config", "archives", "unpickle", "pinned"},
    {"protocols", "ablations"},
    {"faults", "files", "machine", "devices", "progress", "errors"},
]
# What a layer leaves alone although it lies below: `models` know no data, the loops know no other loop.
APART = [
    ("models", "data"),
    ("diffusion", "models"),
    ("diffusion", "data"),
    ("training", "metrics"),
    ("metrics", "training"),
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(module: str) -> str:
    """'vidm.models.unet' -> 'models'; 'vidm' itself -> ''."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} if node.module != "vidm" else {f"vidm.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "vidm"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here == "__init__":
        assert not imports(path)
        return
    assert here in RANK, f"{here}: give it a layer"
    for name in imports(path):
        there = part(name)
        if there in ("", "__version__"):
            continue
        assert RANK[there] >= RANK[here], f"{path.relative_to(ROOT)} imports {name}, which lies above it"
        assert (here, there) not in APART, f"{path.relative_to(ROOT)} must not know {name}"


def test_the_check_itself_sees_an_import_that_points_up(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from vidm import cli\n    import vidm.metrics.report\n", encoding="utf-8")
    assert imports(bad) == {"vidm.cli", "vidm.metrics.report"}
    assert RANK["cli"] < RANK["metrics"] < RANK["models"]


def test_core_imports_without_workflow_and_video_tools():
    # Blocked as if they were not installed: None in sys.modules makes an import fail.
    absent = [
        "dvc",
        "dvclive",
        "snakemake",
        "av",
        "ffmpeg",
        "imageio_ffmpeg",
        "papermill",
        "xarray",
        "h5netcdf",
        "torchvision",
    ]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if part(".".join(path.relative_to(ROOT).with_suffix("").parts))
        in ("models", "diffusion", "training", "metrics")
    ]
    assert len(names) > 10
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_workflow_helpers_load_no_torch():
    code = "import sys, vidm.config, vidm.data.layouts, vidm.pinned; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_path_of_any_machine_in_package_and_workflow():
    absolute = re.compile(r"""["'\s(=](/(?:home|root|work|users|mnt|opt|data|tmp|scratch)/\S*)""", re.IGNORECASE)
    files = [*MODULES, ROOT / "Snakefile", ROOT / "Makefile", ROOT / "dvc.yaml", ROOT / "params.yaml"]
    files += [p for p in (ROOT / "workflow").rglob("*") if p.suffix in {".smk", ".py", ".sh", ".yaml"}]
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            found = absolute.search(line)
            # Of examples in help texts /tmp alone is fit to be typed anywhere.
            assert not found or "Example:" in line, f"{path.relative_to(ROOT)}: {found and found[1]}"
