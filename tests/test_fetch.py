"""Real footage by one command: resume, checks, and the sheet of clips, against a server of this machine."""

import dataclasses
import hashlib
import http.server
import os
import re
import threading
import zipfile

import av
import numpy as np
import pytest

from vidm.data import sources
from vidm.data.fetch import download, fetch, unpack
from vidm.data.layouts import find, has_videos
from vidm.data.sheet import BORDER, CELL, COLUMNS, ROWS
from vidm.data.sources import SOURCES
from vidm.data.video import encode, probe
from vidm.errors import InputError

BODY = np.random.default_rng(0).bytes(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves BODY with ranges. How it misbehaves is set on the class."""

    body, tag, cut, ranges, seen = BODY, '"one"', 0, True, []

    def do_GET(self):
        asked, whole = self.headers.get("Range"), self.server.body
        type(self).seen.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        goes_on = asked and self.server.ranges and self.headers.get("If-Range") == self.server.tag
        if goes_on and start >= len(whole):
            self.send_error(416)
            return
        data = whole[start:] if goes_on else whole
        self.send_response(206 if goes_on else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        self.wfile.write(data[: self.server.cut or len(data)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as served:
        served.body, served.tag, served.cut, served.ranges = BODY, '"one"', 0, True
        Server.seen.clear()
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        served.shutdown()


def source(server, **changes):
    facts = {"nbytes": None, "sha256": None} | changes
    url = f"http://127.0.0.1:{server.server_address[1]}/a/file.bin"
    return dataclasses.replace(SOURCES["sky-preview"], url=url, **facts)


def test_a_download_goes_on_where_it_ended(server, tmp_path):
    server.cut = 100_000
    for _ in range(2):
        with pytest.raises(InputError, match="the same command goes on"):
            download(source(server), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 200_000
    server.cut = 0
    assert download(source(server), tmp_path).read_bytes() == BODY
    assert Server.seen == [None, "bytes=100000-", "bytes=200000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    download(source(server), tmp_path)
    assert len(Server.seen) == 3, "what is there is not asked for again"


def test_a_download_begins_again_where_it_can_not_go_on(server, tmp_path):
    """Another file on the server, a server without ranges, a part that is too long."""
    for change in ("file", "ranges", "length"):
        folder = tmp_path / change
        server.body, server.tag, server.cut, server.ranges = BODY, '"one"', 100_000, True
        with pytest.raises(InputError):
            download(source(server), folder)
        server.cut = 0
        if change == "file":
            server.body, server.tag = BODY[::-1], '"two"'
        elif change == "ranges":
            server.ranges = False
        else:
            server.body = BODY[:50_000]
        assert download(source(server), folder).read_bytes() == server.body


def test_what_is_not_the_file_is_refused(server, tmp_path):
    wrong = source(server, nbytes=5)
    with pytest.raises(InputError, match=r"file\.bin: 300000 bytes, not the 5"):
        fetch(wrong, tmp_path / "raw")
    with pytest.raises(InputError, match="its sha256 is not ffff"):
        fetch(source(server, nbytes=len(BODY), sha256="f" * 64), tmp_path / "raw")
    right = source(server, nbytes=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    with pytest.raises(InputError, match="not the sheet of 8 x 6 clips"):
        fetch(right, tmp_path / "raw")
    assert not has_videos(tmp_path / "raw")


def test_no_network_says_what_to_do(vidm, tmp_path, monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as closed:
        port = closed.server_address[1]
    gone = dataclasses.replace(SOURCES["sky-preview"], url=f"http://127.0.0.1:{port}/real_video.mp4")
    monkeypatch.setitem(SOURCES, "sky-preview", gone)
    ended = vidm("data", "fetch", "sky-preview", "--out", tmp_path / "raw" / "sky")
    assert ended.returncode == 2
    assert "vidm data fetch sky-preview --from real_video.mp4" in ended.stderr
    assert ended.stderr.count("vidm: ") == 1


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """Made as the authors' is: 48 clips in a grid, borders of two pixels, H.264. (path, the grid's own frames)"""
    rng = np.random.default_rng(1)
    step = CELL + BORDER
    frames = np.zeros((4, ROWS * step + BORDER, COLUMNS * step + BORDER, 3), np.uint8)
    for row in range(ROWS):
        for column in range(COLUMNS):
            colour = rng.integers(30, 226, 3, dtype=np.uint8)
            for n in range(4):
                cell = np.full((CELL, CELL, 3), colour)
                cell[20 * n : 20 * n + 30, 40:90] = 255 - colour
                y, x = BORDER + row * step, BORDER + column * step
                frames[n, y : y + CELL, x : x + CELL] = cell
    path = tmp_path_factory.mktemp("sheet") / "real_video.mp4"
    encode(path, frames, 25)
    assert frames.shape[1:3] == (782, 1042)
    return path


def samples(path):
    with av.open(os.fspath(path)) as container:
        return np.stack([f.to_ndarray() for f in container.decode(video=0)])


def test_a_sheet_is_cut_into_its_clips_without_loss(vidm, sheet, tmp_path, monkeypatch):
    known = dataclasses.replace(
        SOURCES["sky-preview"],
        nbytes=sheet.stat().st_size,
        sha256=hashlib.sha256(sheet.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(SOURCES, "sky-preview", known)
    raw = tmp_path / "raw" / "sky"
    ended = vidm("data", "fetch", "sky-preview", "--from", sheet, "--out", raw)
    assert ended.returncode == 0, ended.stderr
    assert "48 clips" in ended.stdout and "compressed twice" in ended.stdout and "too few" in ended.stdout
    clips = find(raw).clips
    assert len(clips) == 48 and not any(c.reason for c in clips)
    whole = samples(sheet)
    for k, clip in enumerate(clips):
        found = probe(clip.path)
        assert (found.width, found.height, found.frames, found.fps) == (CELL, CELL, 4, 25)
        y, x = BORDER + k // COLUMNS * (CELL + BORDER), BORDER + k % COLUMNS * (CELL + BORDER)
        cell = samples(clip.path)
        np.testing.assert_array_equal(cell[:, :CELL], whole[:, y : y + CELL, x : x + CELL])
        quarter = cell[:, CELL : CELL + CELL // 4].reshape(4, CELL // 2, CELL // 2)
        np.testing.assert_array_equal(quarter, chroma(whole)[:, y // 2 : (y + CELL) // 2, x // 2 : (x + CELL) // 2])
    again = vidm("data", "fetch", "sky-preview", "--from", sheet, "--out", raw)
    assert again.returncode == 2 and "holds videos already" in again.stderr


def chroma(whole):
    """U of 4:2:0 frames: (T, 391, 521)."""
    return whole[:, 782:].reshape(len(whole), -1)[:, : 391 * 521].reshape(-1, 391, 521)


def test_a_zip_is_unpacked_once(tmp_path):
    archive, out = tmp_path / "v.zip", tmp_path / "raw"
    with zipfile.ZipFile(archive, "w") as file:
        for k in range(3):
            file.writestr(f"video_00000-01000/video_0000{k}.mp4", bytes([k]) * 1000)
    assert "3 of them new" in unpack(archive, out)
    (out / "video_00000-01000" / "video_00001.mp4").write_bytes(b"half")
    assert "1 of them new" in unpack(archive, out)
    assert (out / "video_00000-01000" / "video_00001.mp4").read_bytes() == b"\1" * 1000
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match="not a whole zip"):
        unpack(archive, out)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../out.mp4", b"x")
    with pytest.raises(InputError, match="leads out of the folder"):
        unpack(archive, out)
    assert not (tmp_path / "out.mp4").exists()


def test_the_table_says_what_is_not_known(vidm):
    text = sources.table()
    assert vidm("data", "sources").stdout.strip() == text.strip()
    assert "2888bb544fe7c03ed9ddd1f83cabf39af430f13d629f9ecc86ef3edd6e7d8dd4" in text and "1,646,181 bytes" in text
    for name in SOURCES:
        assert f"\n{name}: " in f"\n{text}"
    assert text.count("not known here, so not checked") == sum(s.sha256 is None for s in SOURCES.values())
    assert vidm("data", "fetch", "sky-previw").stderr.endswith("did you mean 'sky-preview'?\n")
