"""Bad inputs, each with the sentence that it gets: docs/data.md has the table, and this test makes every row."""

import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_extract import facts, moving
from test_video import ffmpeg, lossless, picture

from vidm.data.extract import extract
from vidm.data.store import FrameStore
from vidm.data.video import encode

DOCS = Path(__file__).parents[1] / "docs" / "data.md"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def frames(folder, count=10, size=(16, 16), suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.fromarray(moving(n, 1, 16)[0]).resize(size).save(folder / f"{n}{suffix}")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    root = base / "zoo"
    root.mkdir()
    encode(base / "good.mp4", picture(40, 64, 64), 25)
    good = (base / "good.mp4").read_bytes()
    index, media = good.index(b"moov") - 4, good.index(b"mdat") + 4

    # Not videos.
    write(root / "01 nothing.mp4", b"")
    write(root / "02 text.mp4", "I am no video\n" * 40)
    write(root / "03 noise.avi", np.random.default_rng(0).bytes(5000))
    write(root / "04 zeros.mkv", bytes(5000))
    write(root / "05 page.mp4", "<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20)
    write(root / "06 pointer.mp4", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n")
    write(root / "07 archive.zip", b"PK\3\4" + bytes(100))
    write(root / "08 notes.pdf", b"%PDF-1.7\n" + bytes(300))
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", root / "09 song.m4a")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-i", _cover(base), "-map", "0", "-map", "1", "-c:v", "mjpeg",
           "-disposition:v", "attached_pic", root / "10 song with a cover.m4a")  # fmt: skip
    write(root / "11 subtitles.mkv", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    # Playlists, which would make ffmpeg open something else.
    write(root / "12 stream.m3u8", f"#EXTM3U\n#EXTINF:1,\n{base / 'good.mp4'}\n#EXT-X-ENDLIST\n")
    write(root / "13 stream.mp4", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    write(root / "14 list.txt", f"ffconcat version 1.0\nfile {base / 'good.mp4'}\n")
    write(root / "15 dash.mpd", '<?xml version="1.0"?><MPD><BaseURL>a.mp4</BaseURL></MPD>')
    write(root / "16 session.sdp", "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n")
    # Damaged.
    write(root / "17 first bytes.mp4", good[:400])
    write(root / "18 no index.mp4", good[:index] + good[media - 8 :])
    ffmpeg("-i", base / "good.mp4", "-c", "copy", base / "late.mp4")  # its index comes last
    late = (base / "late.mp4").read_bytes()
    write(root / "19 download that stopped.mp4", late[: len(late) * 9 // 10])
    write(root / "20 only an index.mp4", good[:media])
    hit = bytearray(good)
    for k in np.random.default_rng(0).integers(media + 1000, len(good), 60):
        hit[k] ^= 0x5A
    write(root / "21 flipped bits.mp4", bytes(hit))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10:duration=2", "-c:v", "mpeg4", base / "a.avi")
    avi = (base / "a.avi").read_bytes()
    start = avi.index(b"movi") + 4
    write(root / "22 overwritten.avi", avi[:start] + np.random.default_rng(1).bytes(len(avi) - start))
    lossless(base / "a.mkv", moving(3, 20))
    mkv = (base / "a.mkv").read_bytes()
    write(root / "23 header only.mkv", mkv[:200])
    write(root / "24 cut.gif", b"GIF89a\x10\x00\x10\x00\xf7\x00\x00" + bytes(20))
    # Too short, or a copy.
    encode(root / "25 one frame.mp4", picture(1, 16, 16), 25)
    encode(root / "26 seven frames.mp4", picture(7, 16, 16), 25)
    write(root / "27 early end.mp4", good[: media + (len(good) - media) // 12])
    write(root / "28 original.mp4", good)
    shutil.copy(root / "28 original.mp4", root / "29 copy.mp4")
    # Not plain files.
    (root / "30 link out.mp4").symlink_to(base / "good.mp4")
    (root / "31 dead link.mp4").symlink_to(base / "missing.mp4")
    (root / "32 circle").symlink_to(root)
    os.mkfifo(root / "33 pipe.mp4")
    # Folders of pictures.
    frames(root / "34 sizes")
    Image.new("RGB", (20, 16)).save(root / "34 sizes" / "5.png")
    frames(root / "35 kinds")
    Image.new("RGB", (16, 16)).save(root / "35 kinds" / "5.png", format="JPEG")
    frames(root / "36 no picture")
    write(root / "36 no picture" / "7.png", "words")
    frames(root / "37 empty picture")
    write(root / "37 empty picture" / "7.png", b"")
    frames(root / "38 cut picture", size=(256, 256), suffix=".jpg")
    whole = (root / "38 cut picture" / "6.jpg").read_bytes()
    write(root / "38 cut picture" / "6.jpg", whole[: len(whole) * 3 // 4])
    frames(root / "39 bomb")
    write(root / "39 bomb" / "3.png", _bomb())
    frames(root / "40 three pictures", 3)
    (root / "41 nothing in it").mkdir()
    encode(root / "42 thumbnails" / "a.mp4", picture(9, 16, 16), 25)
    frames(root / "42 thumbnails", 2, suffix=".jpg")
    write(root / "43 unreadable.mp4", good)
    return root


def _cover(base):
    path = base / "cover.png"
    Image.new("RGB", (32, 32)).save(path)
    return path


def _bomb():
    """A PNG of a few bytes that announces 60000 x 60000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + head, b"IDAT" + bytes(8), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def told(sentence):
    """A sentence without what ffmpeg, PyAV or Pillow add in words of their own, which differ between versions."""
    return re.sub(r"^damaged: (?!\S+\.(?:png|jpg)).*", "damaged", re.sub(r" \(.*\)$", "", sentence))


def rows():
    """{name: sentence} of the table in the documentation."""
    lines = re.findall(r"^\| (\d\d [^|]+?) \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(lines)


def test_every_bad_input_has_its_sentence(zoo, tmp_path, monkeypatch):
    real = Path.open

    def refused(path, *arguments, **options):  # root may read everything, so chmod is no test
        if path.name == "43 unreadable.mp4":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    extract(zoo, tmp_path / "s.h5", facts())
    with FrameStore(tmp_path / "s.h5") as store:
        assert store.sources == ["28 original.mp4", "42 thumbnails/a.mp4"]
        found = dict(store.skipped)
    table = "\n".join(f"| {name} | {reason} |" for name, reason in found.items())
    assert str(zoo) not in table and len(table.splitlines()) == len(found)
    assert len(found) >= 40
    assert {k: told(v) for k, v in found.items()} == {k: told(v) for k, v in rows().items()}, table
