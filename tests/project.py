"""A copy of this project in another folder, and its tools run there: for the tests of workflow and DVC."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Project:
    """A working copy. Tools are those of the running interpreter; `vidm` is the copy's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """What a tool sees in the copy: the running interpreter's tools and the copy's own vidm."""
        tools = Path(sys.executable).parent
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "SNAKEMAKE_"))}
        environment |= {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "XDG_CONFIG_HOME": str(self.folder.parent / "config"),
        }
        return environment

    def run(self, *command: str, timeout: int = 600) -> subprocess.CompletedProcess:
        """Run a tool in the copy; stdout and stderr come back as one text in `.stdout`."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *command: str, **options) -> str:
        ended = self.run(*command, **options)
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}"
        return ended.stdout

    def commit(self, message: str) -> None:
        self.ok("git", "add", "--all")
        self.ok("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", message)

    def planned(self, *target: str) -> set[str]:
        """The rules that snakemake would run."""
        said = self.ok("snakemake", "--dry-run", "--cores", "1", *target)
        rules = {line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith(("rule ", "localrule "))}
        assert bool(rules) is ("Nothing to be done" not in said), said
        return rules

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def times(self) -> dict[str, int]:
        """When each file that the workflow makes was last written."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_mtime_ns
            for top in ("data/frames", "data/weights", "models", "results")
            for path in (self.folder / top).rglob("*")
            if path.is_file()
        }


def copy(folder: Path) -> Project:
    """What git tracks or would track of this working tree, as a new repository with one commit."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project is not known")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not what is deleted and not committed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.ok("git", "init", "-q")
    project.commit("all")
    return project


def kernels(folder: Path) -> dict[str, str]:
    """The environment of Jupyter's tools. Warnings are errors in every kernel, but for those of its own machinery."""
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-warnings.py").write_text(
        'import warnings\nwarnings.simplefilter("error")\nwarnings.filterwarnings("ignore", module="ipykernel")\n',
        encoding="utf-8",
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"IPYTHONDIR": str(folder / "ipython"), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    jupyter = {f"JUPYTER_{kind}_DIR": str(folder / "jupyter" / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    return os.environ | own | jupyter


def recipe(*arguments: str) -> list[list[str]]:
    """What `make` would call, with this interpreter's tools in the place of .venv's."""
    # As from a shell: below `make test` a second make would name its folder first.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--dry-run", "--old-file", ".venv/ready", *arguments]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    said = said.replace("\\\n", " ").replace(".venv/bin", str(Path(sys.executable).parent))
    return [shlex.split(line, comments=True) for line in said.splitlines()]
