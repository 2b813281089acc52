"""Real footage by one command: download with resume, check, unpack or cut.

A download lies in `.downloads/` beside the raw folder, as `.part` until it is whole. Stopped, it goes on from there,
unless the server's file has changed since.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from vidm.archives import sha256
from vidm.data.extract import size
from vidm.data.layouts import has_videos
from vidm.data.sheet import cut
from vidm.data.sources import Source
from vidm.errors import InputError
from vidm.files import replacing
from vidm.progress import bar

TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20
AGENT = "vidm"


def fetch(source: Source, out: Path | None = None, given: Path | None = None) -> str:
    """Get a source, check it, put its clips into `out` (default: its own folder); return a summary.

    given: a file that was fetched elsewhere. Raises InputError: no network, another file than expected, a folder
    that holds other videos.
    """
    out = Path(out or source.folder)
    if source.kind == "sheet" and has_videos(out):
        raise InputError(f"{out}: holds videos already; move them, or choose another --out")
    file = Path(given) if given else download(source, out.parent / ".downloads")
    _check(source, file)
    if source.kind == "sheet":
        said = f"{cut(file, out)}\n{source.about}."
        with replacing(out / "README.md") as temporary:
            temporary.write_text(f"{source.about}.\n\nFrom {source.url}\nLicence: {source.licence}\n", encoding="utf-8")
        return said
    if source.kind == "zip":
        return unpack(file, out)
    return f"{file}: fetched. Unpack it: unrar x {file} {out}/   (or: 7z x {file} -o{out})"


def download(source: Source, folder: Path) -> Path:
    """The file in `folder`, fetched where it is not there. Raises InputError; the same call goes on."""
    target = folder / source.file
    if target.is_file():
        return target
    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.tag")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _receive(source, part, tag)
        tag.unlink(missing_ok=True)
        part.replace(target)
    except urllib.error.HTTPError as error:
        raise InputError(_failed(source, f"the server says {error.code} {error.reason}", folder)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise InputError(_failed(source, str(reason), folder)) from None
    return target


def _receive(source: Source, part: Path, tag: Path) -> None:
    """Bytes of the URL to the end of `part`; from the beginning where the server can't or won't go on."""
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    request = urllib.request.Request(source.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        part.unlink()  # longer than the file is now
        return _receive(source, part, tag)
    with answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = have + int(answer.headers.get("Content-Length", -1 - have))
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if mark and not mark.startswith("W/"):  # a weak one does not promise the same bytes
            tag.write_text(mark, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if goes_on else "wb") as file, bar(max(total, 0), source.file, "bytes", have) as progress:
            while block := answer.read(BLOCK):
                file.write(block)
                progress.advance(len(block))
    if total >= 0 and part.stat().st_size != total:
        raise ConnectionError(0, f"the connection ended at {part.stat().st_size} of {total} bytes")


def _failed(source: Source, reason: str, folder: Path) -> str:
    return (
        f"{source.url}: {reason}. What came is kept: the same command goes on. Or fetch it elsewhere and give it: "
        f"vidm data fetch {source.name} --from {source.file}"
    )


def _check(source: Source, file: Path) -> None:
    """Raises InputError where it is not the file that the table knows."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; fetch it from {source.url}")
    found = file.stat().st_size
    if source.nbytes and found != source.nbytes:
        raise InputError(f"{file}: {found} bytes, not the {source.nbytes} of {source.name}; remove it and fetch again")
    if source.sha256 and sha256(file) != source.sha256:
        raise InputError(f"{file}: its sha256 is not {source.sha256}; remove it and fetch again")


def unpack(archive: Path, out: Path) -> str:
    """Unpack a zip into a folder; members that are there in full are left alone. Raises InputError."""
    done = 0
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.is_dir()]
            for member in members:
                name = PurePosixPath(member.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                    raise InputError(f"{archive}: its member '{member.filename}' leads out of the folder; not unpacked")
            with bar(len(members), f"unpack {archive.name}", "files") as progress:
                for member in members:
                    target = out.joinpath(*PurePosixPath(member.filename).parts)
                    if not target.is_file() or target.stat().st_size != member.file_size:
                        with replacing(target) as temporary, file.open(member) as stream, temporary.open("wb") as copy:
                            while block := stream.read(BLOCK):
                                copy.write(block)
                        done += 1
                    progress.advance()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive}: not a whole zip archive ({error}); remove it and fetch again") from None
    total = sum(m.file_size for m in members)
    return f"{out}: {len(members)} files, {size(total)}, {done} of them new; {archive} may be removed now"
