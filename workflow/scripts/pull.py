"""`make pull`: fetch from the DVC remote, tell Snakemake that it is up to date, and check that all of it is there.

DVC writes files with new times, after which Snakemake would train again; `--touch` settles that, and with
`--forceall` it also notes the parameters, so that a later change of them is seen. But it blesses whatever lies
there, and neither tool minds when nothing does: so DVC is asked whether data and parameters are those that the
results were made from, and each output is looked for.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

TOOLS = Path(sys.executable).parent
TARGET = "results/sky_fvd.json"


def call(*command: str) -> subprocess.CompletedProcess:
    """Run one of this environment's tools, its output kept."""
    return subprocess.run([str(TOOLS / command[0]), *command[1:]], capture_output=True, text=True, check=False)


def stop(line: str) -> NoReturn:
    print(f"pull: {line}", file=sys.stderr)
    sys.exit(2)


def last_line(ended: subprocess.CompletedProcess) -> str:
    lines = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
    lines = [line for line in lines if not line.startswith("  File ")]  # where Snakemake's files raised it
    return lines[-1].removeprefix("ERROR: ") if lines else f"exit code {ended.returncode}"


def missing(target: str) -> list[str]:
    """Snakemake's outputs on the way to `target` that are not on disk, temporary ones aside."""
    ended = call("snakemake", "--summary", target)
    if ended.returncode:
        stop(f"snakemake can't list the outputs of {target}: {last_line(ended)}")
    rows = [line.split("\t") for line in ended.stdout.splitlines() if "\t" in line]
    names = [row[0] for row in rows if row[0] != "output_file"]
    return [name for name in names if not name.startswith("data/rendered/") and not Path(name).exists()]


def stage_of(target: str) -> str:
    """The stage that makes a file; with those before it, it is what is fetched and asked about."""
    from dvc.exceptions import DvcException, OutputNotFoundError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return repo.find_outs_by_path(target)[0].stage.addressing
    except OutputNotFoundError:
        stop(f"no stage of dvc.yaml makes {target}; name it there, see data/README.md")
    except DvcException as error:
        stop(str(error))


def changed(stage: str) -> list[str]:
    """What these stages depend on and is not as it was when the results were made."""
    ended = call("dvc", "status", "--json", "--with-deps", stage)
    if ended.returncode:
        stop(last_line(ended))
    stages = json.loads(ended.stdout or "{}")
    return sorted(
        {
            f"{name} ({stage})"
            for stage, entries in stages.items()
            for entry in entries
            if isinstance(entry, dict)
            for name in entry.get("changed deps", {})
        }
    )


def main(target: str = TARGET) -> None:
    remotes = call("dvc", "remote", "list")
    if remotes.returncode:
        stop(last_line(remotes))
    if not remotes.stdout.strip():
        stop("no DVC remote to pull from; name one: dvc remote add --default storage s3://bucket/vidm  (or a folder)")
    stage = stage_of(target)
    pulled = subprocess.run([str(TOOLS / "dvc"), "pull", "--with-deps", stage], check=False)
    if pulled.returncode:
        stop("dvc pull failed, see above; nothing was marked as up to date")
    if gone := missing(target):
        stop(f"the remote had no {gone[0]} ({len(gone)} files missing); make them: make {target}")
    if other := changed(stage):
        stop(f"these are not what the results were made from: {', '.join(other)}; nothing was marked as up to date")
    touched = call("snakemake", "--cores", "1", "--touch", "--forceall", target)
    if touched.returncode:
        stop(f"snakemake --touch: {last_line(touched)}")
    planned = call("snakemake", "--dry-run", "--cores", "1", target)
    if "Nothing to be done" not in planned.stdout + planned.stderr:
        stop(f"snakemake would still run something for {target}; see: snakemake --dry-run {target}")
    print(f"pull: {target} and all that it was made from are here, and up to date")


if __name__ == "__main__":
    main(*sys.argv[1:])
