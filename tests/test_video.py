"""Encode, probe and decode against known frames, and what must not be opened."""

import json
import os
import shutil
import struct
import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from vidm.config import Dataset
from vidm.data.decoding import TEXTS, ffmpeg_version
from vidm.data.extract import extract
from vidm.data.probing import probe_pictures
from vidm.data.video import VideoError, decode, encode, ffmpeg_program, probe
from vidm.errors import InputError


def picture(frames=8, height=48, width=64):
    """Smooth colours that move: (T, H, W, 3) uint8, each frame different."""
    y, x = np.mgrid[:height, :width]
    waves = [np.stack([x * 3 + 5 * t, y * 4 + 3 * t, (x + y) * 2 + 7 * t], -1) for t in range(frames)]
    return (127 + 100 * np.sin(np.stack(waves) / 40)).astype(np.uint8)


def lossless(path, frames, codec="ffv1", pix_fmt="bgr0", **options):
    """Write frames bit-exactly with PyAV; the container is that of the name."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=options.pop("rate", 10))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = pix_fmt, {k: str(v) for k, v in options.items()}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def ffmpeg(*arguments):
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", *map(os.fspath, arguments)]
    subprocess.run(command, env=os.environ | TEXTS, check=True)


def turned(source, path):
    """A copy of an mp4 that is to be shown a quarter turn counter-clockwise, as phones write it.

    By its bytes: ffmpeg has an option for it only from 6 on, and PyAV only since 2026.
    """
    data = bytearray(source.read_bytes())
    matrix = slice(data.index(b"tkhd") + 44, data.index(b"tkhd") + 80)
    one, w = 1 << 16, 1 << 30  # fixed point: 16.16, and 2.30 in the last column
    assert struct.unpack(">9i", data[matrix]) == (one, 0, 0, 0, one, 0, 0, 0, w), "upright before"
    data[matrix] = struct.pack(">9i", 0, -one, 0, one, 0, 0, 0, 0, w)
    path.write_bytes(data)
    return path


def error(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


@pytest.fixture
def in_path(tmp_path, monkeypatch):
    """Puts a program of this text first in PATH, as ffmpeg."""

    def put(text):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        forget()
        return program

    def forget():
        ffmpeg_program.cache_clear()
        ffmpeg_version.cache_clear()

    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    yield put
    forget()


def says(version):
    return f"#!/bin/sh\necho 'ffmpeg version {version} Copyright (c) 2000-2022 the FFmpeg developers'\n"


@pytest.mark.parametrize("version", ["5.1.9-0+deb12u1", "6.1.1-3ubuntu5", "7.0.2-static", "n8.0", "10.0"])
def test_the_systems_ffmpeg_is_taken_from_5_1_on(in_path, version):
    program = in_path(says(version))
    assert (ffmpeg_program(), ffmpeg_version()) == (str(program), f"ffmpeg version {version}")


OTHERS = {
    "Ubuntu 22.04's": says("4.4.2-0ubuntu0.22.04.1"),
    "5.0": says("5.0.1"),
    "without a number": says("N-109542-g8f2b1c1"),
    "without its libraries": "#!/bin/sh\nexit 127\n",
    "no program": "of another CPU",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS.keys())
def test_another_ffmpeg_of_the_system_is_passed_over(tmp_path, in_path, text):
    path = lossless(tmp_path / "a.mkv", picture(3, 32, 32))
    in_path(text)
    np.testing.assert_array_equal(decode(path, 32), picture(3, 32, 32))
    assert ffmpeg_program() == imageio_ffmpeg.get_ffmpeg_exe()


def test_without_a_new_ffmpeg_no_file_is_called_damaged(tmp_path, in_path, monkeypatch):
    """Where imageio-ffmpeg brings none, it names the one in PATH, or what its variable says."""
    (tmp_path / "raw").mkdir()
    lossless(tmp_path / "raw" / "a.mkv", picture(20, 16, 16))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(in_path(says("4.4.2"))))
    with pytest.raises(InputError, match=r"no ffmpeg from 5\.1 on"):
        extract(tmp_path / "raw", tmp_path / "s.h5", Dataset(raw="data/raw/x", resolution=16))


def test_encode_keeps_the_picture_and_its_bytes(tmp_path):
    frames = picture()
    encode(tmp_path / "a.mp4", frames, 25, metadata={"seed": "7"})
    encode(tmp_path / "b.mp4", frames, 25, metadata={"seed": "7"})
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "faststart: the index comes first"
    with av.open(os.fspath(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 25
        assert json.loads(container.metadata["comment"]) == {"seed": "7"}
    back = decode(tmp_path / "a.mp4", 48)
    assert error(back, frames[:, :, 8:56]) < 3
    assert list(tmp_path.glob(".*")) == []


def test_encode_is_deterministic_every_time(tmp_path):
    """With AVX-512, x264 gives other bytes in about 4 % of the runs of this very clip."""
    frames, found = picture(8, 48, 48), set()
    for _ in range(60):
        encode(tmp_path / "a.mp4", frames, 25)
        found.add((tmp_path / "a.mp4").read_bytes())
    assert len(found) == 1


def test_encode_pads_odd_sides_by_their_edge(tmp_path):
    frames = picture(4, 31, 33)
    encode(tmp_path / "odd.mp4", frames, 30000 / 1001, crf=0)
    found = probe(tmp_path / "odd.mp4")
    assert (found.height, found.width, found.frames) == (32, 34, 4)
    assert found.fps == pytest.approx(30000 / 1001)


def test_encode_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "old.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="uint8"):
        encode(path, picture().astype(np.float32), 25)
    with pytest.raises((OverflowError, ValueError, av.FFmpegError)):
        encode(path, picture(), -1)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]


@pytest.mark.parametrize(("codec", "pix_fmt", "options"), [("ffv1", "bgr0", {}), ("libx264rgb", "rgb24", {"qp": 0})])
def test_decode_is_exact_without_scaling(tmp_path, codec, pix_fmt, options):
    frames = picture(9, 32, 47)  # the crop starts at an odd pixel: 7
    path = lossless(tmp_path / "a.mkv", frames, codec, pix_fmt, **options)
    np.testing.assert_array_equal(decode(path, 32), frames[:, :, 7:39])
    np.testing.assert_array_equal(decode(path, 32, stride=4), frames[::4, :, 7:39])


def test_decode_scales_by_area(tmp_path):
    """Halving by area is the mean of 2 x 2 pixels."""
    frames = picture(3, 64, 96)
    path = lossless(tmp_path / "a.mkv", frames)
    mean = frames.reshape(3, 32, 2, 48, 2, 3).mean((2, 4))[:, :, 8:40]
    found = decode(path, 32, resize="area")
    assert np.abs(found - mean).max() <= 2
    assert not np.array_equal(found, decode(path, 32, resize="lanczos"))


@pytest.mark.parametrize(("height", "width"), [(20, 100), (100, 20), (7, 5), (33, 63)])
def test_decode_any_shape_gives_a_square(tmp_path, height, width):
    path = lossless(tmp_path / "a.mkv", picture(3, height, width))
    assert decode(path, 16).shape == (3, 16, 16, 3)
    assert decode(path, 64).shape == (3, 64, 64, 3)


def test_rotation_is_applied(tmp_path):
    frames = picture(4, 32, 64)
    encode(tmp_path / "a.mp4", frames, 10, crf=1)
    found = probe(turned(tmp_path / "a.mp4", tmp_path / "turned.mp4"))
    assert found.rotation == 90
    assert (found.height, found.width) == (32, 64)
    upright = np.rot90(frames, 1, axes=(1, 2))[:, 16:48]  # 90 degrees counter-clockwise
    assert error(decode(tmp_path / "turned.mp4", 32), upright) < 3


def test_anamorphic_pixels_are_squared(tmp_path):
    """Stored 32 x 32 with pixels of 2:1 is shown as 64 x 32: the crop takes the middle half."""
    frames = picture(3, 32, 32)
    lossless(tmp_path / "a.mkv", frames)
    ffmpeg("-i", tmp_path / "a.mkv", "-vf", "setsar=2", "-c:v", "ffv1", tmp_path / "wide.mkv")
    middle = frames[:, :, 8:24].repeat(2, axis=2)
    squared, stored = error(decode(tmp_path / "wide.mkv", 32), middle), error(decode(tmp_path / "a.mkv", 32), middle)
    assert squared < 4 < 8 < stored


def test_gif(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=40x30:rate=10:duration=2", tmp_path / "a.gif")
    found = probe(tmp_path / "a.gif")
    assert (found.container, found.frames, found.fps) == ("gif", 20, 10)
    assert decode(tmp_path / "a.gif", 30).shape == (20, 30, 30, 3)


NAMES = [
    "with space.mp4",
    "-dash.mp4",
    "quote'\"`$(x).mp4",
    "new\nline.mp4",
    "%d%05d.mp4",
    "http:colon.mp4",
    "concat:a|b.mp4",
    "pipe:0",
    "ünï😀.mp4",
    b"not-utf8-\xff\xfe.mp4",
    "back\\slash.mp4",
    "no suffix",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name(tmp_path, name, monkeypatch):
    encode(tmp_path / "a.mp4", picture(5), 25)
    expected = decode(tmp_path / "a.mp4", 16)
    path = tmp_path / os.fsdecode(name)
    shutil.move(tmp_path / "a.mp4", path)
    assert probe(path).frames == 5
    np.testing.assert_array_equal(decode(path, 16), expected)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(decode(os.fsdecode(name), 16), expected)


def test_playlists_are_not_opened(tmp_path):
    good = tmp_path / "good.ts"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=32x32:rate=10:duration=2", "-c:v", "mpeg2video", good)
    assert len(decode(good, 32)) == 20
    playlists = {
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ngood.ts\n#EXT-X-ENDLIST\n",
        "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/good.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile good.ts\n",
        "plain.ffconcat": f"file '{good}'\n",
        "dash.mpd": '<?xml version="1.0"?><MPD><Period><BaseURL>good.ts</BaseURL></Period></MPD>',
        "a.sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    }
    for name, text in playlists.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(VideoError, match="playlist"):
            probe(path)
        with pytest.raises(VideoError):  # ffmpeg itself refuses, too
            decode(path, 32)
    # The bait is real: without the white lists, ffmpeg follows this one.
    out = tmp_path / "followed.gif"
    ffmpeg("-i", tmp_path / "concat.mp4", out)
    assert probe(out).frames == 20


def test_reasons(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello\n" * 300)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "song.m4a")
    encode(tmp_path / "good.mp4", picture(32, 128, 128), 25)
    data = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "head.mp4").write_bytes(data[: len(data) // 8])
    ffmpeg("-i", tmp_path / "good.mp4", "-c", "copy", tmp_path / "late.mp4")  # its index is at the end
    late = (tmp_path / "late.mp4").read_bytes()
    (tmp_path / "late.mp4").write_bytes(late[: len(late) * 9 // 10])
    reasons = {
        "empty.mp4": "empty file",
        "text.mp4": "not a video",
        "song.m4a": r"no video stream \(only audio\)",
        "head.mp4": "damaged or truncated",
        "late.mp4": "damaged or truncated",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason) as caught:
            probe(tmp_path / name)
        assert os.fspath(tmp_path) not in str(caught.value)


def test_truncated_file_gives_its_whole_frames(tmp_path):
    encode(tmp_path / "a.mp4", picture(40, 64, 64), 25)
    whole, data = decode(tmp_path / "a.mp4", 64), (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 8 // 10])
    left = decode(tmp_path / "cut.mp4", 64)
    assert 5 < len(left) < 40
    np.testing.assert_array_equal(left, whole[: len(left)])


def test_damaged_frames_are_an_error(tmp_path):
    encode(tmp_path / "a.mp4", picture(40, 64, 64), 25)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    for i in np.random.default_rng(0).integers(start + 1000, len(data), 40):
        data[i] ^= 0x5A
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="damaged") as caught:
        decode(tmp_path / "a.mp4", 64)
    assert "0x" not in str(caught.value)
    assert os.fspath(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "bgr0"), ("libx264", "yuv420p"), ("ffv1", "yuv422p")])
def test_whole_frames_are_those_that_the_square_is_cut_out_of(tmp_path, codec, pix_fmt):
    frames = picture(5, 48, 64)
    path = lossless(tmp_path / "a.mkv", frames, codec, pix_fmt)
    whole = decode(path, None)
    assert whole.shape == frames.shape and (pix_fmt != "bgr0" or np.array_equal(whole, frames))
    np.testing.assert_array_equal(decode(path, 48), whole[:, :, 8:56])
    np.testing.assert_array_equal(decode(path, None, stride=2), whole[::2])
    ffmpeg("-i", path, "-vf", "setsar=2", "-c:v", "ffv1", tmp_path / "wide.mkv")
    assert decode(tmp_path / "wide.mkv", None).shape == (5, 48, 128, 3)
    (tmp_path / "text.mkv").write_text("text")
    with pytest.raises(VideoError):
        decode(tmp_path / "text.mkv", None)


def test_every_third_frame_where_a_clip_changes_its_size(tmp_path):
    """ffmpeg builds its filters anew there; what counts frames in them would begin at 0 again."""
    levels = np.arange(30, dtype=np.uint8) * 8
    for name, side, part in (("a.ts", 64, levels[:10]), ("b.ts", 128, levels[10:])):
        frames = np.broadcast_to(part[:, None, None, None], (len(part), side, side, 3))
        lossless(tmp_path / "part.ts", np.ascontiguousarray(frames), "libx264", "yuv420p", rate=25, bf=0)
        ffmpeg("-i", tmp_path / "part.ts", "-c", "copy", "-output_ts_offset", str(part[0] / 200), tmp_path / name)
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.ts", "b.ts")))
    for resize in ("area", "centre-crop bilinear"):
        all_of_them = decode(path, 32, resize=resize)
        assert len(all_of_them) >= 29, "both parts; one frame may be lost where they meet"
        np.testing.assert_array_equal(decode(path, 32, stride=4, resize=resize), all_of_them[::4])
    whole = decode(path, None)
    assert whole.shape == (len(all_of_them), 64, 64, 3), "that of the first"
    assert error(whole, decode(path, 64)) < 2


@pytest.mark.parametrize("count", [10, 12])
def test_every_third_picture_of_a_folder_of_several_pixel_formats(tmp_path, count):
    """A scene that begins black, which programs save as grey; JPEGs of full and of halved colour."""
    levels = np.arange(count, dtype=np.uint8) * 20
    for k, level in enumerate(levels):
        image = Image.new("RGB", (64, 64), (int(level),) * 3)
        (image.convert("L") if k < 4 else image).save(tmp_path / f"{k}.png")
    found = decode(tmp_path, 32, stride=3, found=probe_pictures(tmp_path))
    assert found[:, 16, 16, 0].tolist() == levels[::3].tolist()


def test_the_first_picture_of_a_jpeg_of_several(tmp_path):
    """As phones write it: a gain map or a second eye behind the picture."""
    for k in range(4):
        image, other = Image.new("RGB", (48, 32), (k * 20,) * 3), Image.new("RGB", (16, 16))
        image.save(tmp_path / f"{k}.jpg", "MPO", save_all=True, append_images=[other], quality=95)
    found = probe_pictures(tmp_path)
    assert (found.codec, found.frames) == ("mjpeg", 4)
    assert decode(tmp_path, 32, found=found)[:, 16, 16, 0].tolist() == [0, 20, 40, 60]
