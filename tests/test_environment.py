"""pyproject.toml, environment.yml and constraints.txt agree; `make` finds a Python, or says what is missing."""

import importlib.metadata
import importlib.util
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The same thing under conda-forge's or bioconda's name.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "snakemake-minimal": "snakemake"}


EXTRAS = PROJECT["optional-dependencies"]
LEFT_OUT = {"s3", "s3-test"}  # of what `make` installs; .ci/run adds them


def required(extras: Iterable[str] = EXTRAS.keys() - LEFT_OUT) -> dict[str, SpecifierSet]:
    lines = [*PROJECT["dependencies"], *(r for extra in extras for r in EXTRAS[extra])]
    requirements = [Requirement(line) for line in lines]
    found: dict[str, SpecifierSet] = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert found.setdefault(name, requirement.specifier) == requirement.specifier, f"{name}: two bounds"
    return found


def pins(left_out: bool = True) -> dict[str, str]:
    """What constraints.txt pins; with the closure of the extras that are left out, or without."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = (text if left_out else text.split("# Of the extras s3")[0]).splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_environment_yml_agrees():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    found = {}
    for entry in environment["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            name, _, specifier = line.partition(" ")
            name = canonicalize_name(CONDA_NAMES.get(name, name))
            assert name not in found, f"{name} stands there twice"
            found[name] = SpecifierSet(specifier)
    assert found.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert found == required()


def test_constraints_fit_the_bounds():
    pinned = pins()
    for name, specifier in required(EXTRAS).items():
        assert specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {specifier}"


def test_constraints_pin_what_is_installed_and_nothing_else():
    """The closure of this package's requirements, as the running environment resolves them."""
    names = {canonicalize_name(Requirement(line).name) for extra in LEFT_OUT for line in EXTRAS[extra]}
    there = all(importlib.util.find_spec(name.replace("-", "_")) for name in names)
    pinned, seen = pins(left_out=there), set()
    waiting = [("vidm", extra) for extra in ("", *(EXTRAS if there else EXTRAS.keys() - LEFT_OUT))]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                below = canonicalize_name(requirement.name)
                waiting += [(below, e) for e in ("", *requirement.extras)]
    closure = {name for name, _ in seen} - {"vidm", "setuptools"}
    assert not closure - pinned.keys(), "constraints.txt does not name these"
    # Some are needed on other systems or Pythons, or are extras that pip takes along; a handful at most.
    assert len(pinned.keys() - closure) < 10, sorted(pinned.keys() - closure)


def test_no_pin_with_a_local_label():
    assert not [name for name, version in pins().items() if "+" in version]


def test_every_other_extra_is_installed_by_make():
    script = (ROOT / "workflow/scripts/environment.sh").read_text(encoding="utf-8")
    extras = re.search(r"-e '\.\[([a-z,]+)\]'", script)
    assert set(extras[1].split(",")) == EXTRAS.keys() - LEFT_OUT


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A copy of what `make` needs, with a PATH folder of few tools."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "workflow/scripts/environment.sh"):
        (tmp_path / "a project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "a project" / name)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "env", "make", "rm", "head", "tail", "grep", "touch", "cat", "sh", "mkdir"):
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make(elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *arguments],
        cwd=elsewhere / "a project", env={"PATH": str(elsewhere / "bin"), "LC_ALL": "C"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def program(path: Path, text: str) -> None:
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_plain_make_lists_the_targets(elsewhere):
    ended = make(elsewhere)
    assert ended.returncode == 0
    for target in ("results/sky_fvd.json", "test", "lab", "pull", "report", "clean-venv"):
        assert f"make {target}" in ended.stdout


def test_make_without_a_fitting_python_says_so(elsewhere):
    # As version managers do: a name that is there and does not run.
    program(elsewhere / "bin/python3.12", "echo 'not installed' >&2; exit 127")
    program(elsewhere / "bin/python3", "exit 1  # asked for its version: 3.9")
    ended = make(elsewhere, "test")
    assert ended.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 found" in ended.stderr


def test_make_without_ensurepip_names_the_package(elsewhere):
    broken = f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"'
    program(elsewhere / "bin/python3.13", broken)
    ended = make(elsewhere, "test")
    assert ended.returncode != 0
    assert "lacks venv or ensurepip" in ended.stderr and "apt install python3" in ended.stderr
    assert not (elsewhere / "a project/.venv").exists()


def test_half_made_environment_is_made_again(elsewhere):
    """Interrupted after a part: no stamp, so the next call goes on; a failed install says where to look."""
    venv = elsewhere / "a project/.venv"
    (venv / "bin").mkdir(parents=True)
    program(venv / "bin/python", "exit 1")
    # A real environment, and an index that does not answer: what is installed is not this test's affair.
    refuse = (
        f'if [ "$2" = venv ]; then exec {sys.executable} -m venv --without-pip "$3"; fi; exec {sys.executable} "$@"'
    )
    program(elsewhere / "bin/python3.13", refuse)
    ended = make(elsewhere, "test")
    assert ended.returncode != 0
    assert "Making .venv with Python 3." in ended.stdout
    assert ".venv/install.log" in ended.stderr
    assert not (venv / "ready").exists()
    assert (venv / "pyvenv.cfg").exists(), "the broken one was replaced"
