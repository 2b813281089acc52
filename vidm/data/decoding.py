"""Frames out of video files and folders of pictures: ffmpeg scales and crops, or a published recipe does.

The picture is set upright, deinterlaced where it is interlaced, and its pixels are made square. Then

    <kernel>              the short side is scaled to the resolution by the kernel, the centre is cut out
    centre-crop bilinear  the centre square is cut out, then sampled at pixel centres, without antialias (DIGAN, VIDM)
    lanczos then crop     Pillow's Lanczos of the whole picture, then the centre (StyleGAN-V)

or it stays whole, at its own size.

Nothing is compressed on the way. Alpha is left away, grey becomes three equal channels, more than 8 bits are
rounded to 8.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import numpy as np

from vidm.data.layouts import frame_files
from vidm.data.probing import LOCAL, PICTURES, Probe, VideoError, first_picture
from vidm.data.recipes import RECIPES
from vidm.errors import InputError

# A decoder that says this has painted over a hole. Other complaints (a short file, say) leave whole frames.
DAMAGE = re.compile(r"error|invalid|damaged|corrupt|missing picture", re.I)
ADDRESS = re.compile(r"\[[^][]* @ 0x[0-9a-f]+\]\s*")
HERE = "file:input"  # stands for the name until the command is made
KERNELS = ("area", "bilinear", "bicubic", "lanczos")
EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
OLDEST = (5, 1)  # has -fps_mode
# Names of programmes in an MPEG-TS are texts to convert, by modules of glibc that crash a static build: none, then.
TEXTS = {"GCONV_PATH": os.devnull}
# EXIF's orientations as ffmpeg's filters; 1 is upright.
TURNS = {
    2: ["hflip"],
    3: ["hflip", "vflip"],
    4: ["vflip"],
    5: ["transpose=0"],
    6: ["transpose=1"],
    7: ["transpose=3"],
    8: ["transpose=2"],
}


@cache
def ffmpeg_program() -> str:
    """The system's ffmpeg where it is new enough, else the one of imageio-ffmpeg. Raises InputError: neither is."""
    import imageio_ffmpeg

    system = shutil.which("ffmpeg")
    if system and (_release(system) or (0, 0)) >= OLDEST:
        return system
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()  # where its wheel brings none, the system's again
    except RuntimeError:
        program = None
    if program is None or (_release(program) or OLDEST) < OLDEST:
        raise InputError("no ffmpeg from 5.1 on, neither in PATH nor imageio-ffmpeg's; install one to decode videos")
    return program


@cache
def ffmpeg_version() -> str:
    """What decodes: part of what frames depend on."""
    return _said(ffmpeg_program()).split("\n", 1)[0].split(" Copyright")[0]


def _release(program: str) -> tuple[int, int] | None:
    """(5, 1), say. None: a build between releases, which has no number, or a program that doesn't run."""
    try:
        found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", _said(program))
    except OSError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def _said(program: str) -> str:
    return subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout


def decode(
    path: str | Path,
    resolution: int | None,
    stride: int = 1,
    resize: str = "area",
    stream: int | None = None,
    folder: str | Path | None = None,
    fps: float | None = None,
    found: Probe | None = None,
) -> np.ndarray:
    """All frames of a clip, every `stride`-th, scaled and cropped: (T, resolution, resolution, 3) uint8, RGB.

    resolution None: whole, at the size of the first, (T, H, W, 3).

    The array is mapped from an unnamed temporary file in `folder` (default: the system's), so that a long video
    needs disk, not memory. The rest as `write`; `found` is what `probe` said, without it `stream` names the stream.

    Raises VideoError where ffmpeg reports damage or nothing comes out. A file that merely ends too early gives
    the frames that are whole.
    """
    with tempfile.TemporaryFile(dir=folder) as raw:
        shape = write(path, raw, resolution, stride, resize, stream, fps, found)
        return np.memmap(raw, np.uint8, "r", shape=shape)


def write(
    path: str | Path,
    out: BinaryIO,
    resolution: int | None,
    stride: int = 1,
    resize: str = "area",
    stream: int | None = None,
    fps: float | None = None,
    found: Probe | None = None,
) -> tuple[int, int, int, int]:
    """Write the frames of a clip, as bytes of (T, resolution, resolution, 3), to an open file; return their shape.

    `resize`: one of KERNELS or RECIPES. `fps`: resample a video to this constant rate first, by the nearest
    frame in time. Memory does not grow with the clip. Raises VideoError as `decode`.
    """
    if resize not in (*KERNELS, *RECIPES):
        raise ValueError(f"resize = {resize!r}; one of {', '.join((*KERNELS, *RECIPES))}")
    video = _input(path, stream, found)
    if found and found.interlaced:
        video = video.filter("bwdif", mode="send_frame", deint="interlaced")
    pictures = found is not None and found.container == PICTURES
    if fps and not pictures:
        video = video.filter("fps", fps=fps)
    files = frame_files(Path(path))[::stride] if pictures else None
    # Not by a filter of ffmpeg's: it counts from 0 again where a clip changes its size or its pixel format.
    every = 1 if pictures else stride
    before = out.tell()
    shape = (resolution, resolution, 3) if resolution else None
    raw = resize in KERNELS and shape is not None
    if raw:
        made = _scaled(video, resolution, resize).output("pipe:1", **RAW)
    else:
        kernel = resize if resize in KERNELS else "bicubic"
        made = video.filter("scale", w="max(1,round(iw*sar))", h="ih", flags=f"{kernel}+{EXACT}")
        made = made.output("pipe:1", **PPM)
    if raw and every == 1:
        done, log = _run(made, path, files, stdout=out)
    else:
        read = partial(_raw, size=math.prod(shape)) if raw else _ppm
        recipe = RECIPES.get(resize, lambda frame, _: frame)

        def take(pipe: BinaryIO) -> None:
            nonlocal shape
            for frame in islice(read(pipe), 0, None, every):
                shape = shape or frame.shape  # ffmpeg scales to it where a clip changes its size
                out.write(np.ascontiguousarray(recipe(frame, resolution)))

        done, log = _run(made, path, files, take=take)
        out.flush()
    count = (os.fstat(out.fileno()).st_size - before) // math.prod(shape) if shape else 0
    _check(done, log, count, path, None if files is None else len(files))
    return count, *shape


def snapshot(path: str | Path, found: Probe, resolution: int, n: int) -> np.ndarray:
    """Frame n of a clip, as the area kernel gives it: (resolution, resolution, 3) uint8. Raises VideoError."""
    video, files = _input(path, None, found), None
    if found.container == PICTURES:
        files = frame_files(Path(path))[n : n + 1]
    else:
        video = video.filter("select", f"eq(n,{n})")
    with tempfile.TemporaryFile() as out:
        output = _scaled(video, resolution, "area").output("pipe:1", **RAW, vframes=1)
        done, log = _run(output, path, files, stdout=out)
        out.seek(0)
        data = out.read()
    if len(data) != resolution * resolution * 3:
        raise VideoError(f"damaged: {(log or [f'no frame {n}, exit code {done}'])[0]}")
    return np.frombuffer(data, np.uint8).reshape(resolution, resolution, 3)


RAW = {"format": "rawvideo", "pix_fmt": "rgb24", "fps_mode": "passthrough", "threads": 1}
PPM = {"format": "image2pipe", "vcodec": "ppm", "pix_fmt": "rgb24", "fps_mode": "passthrough", "threads": 1}


def _input(path: str | Path, stream: int | None, found: Probe | None):
    import ffmpeg

    if found and found.container == PICTURES:
        pipe = {"format": "image2pipe", "framerate": found.fps, "vcodec": found.codec, "noautorotate": None}
        video = ffmpeg.input("pipe:0", threads=1, protocol_whitelist="pipe", **pipe)["v:0"]
        for turn in TURNS.get(found.orientation, ()):
            name, _, value = turn.partition("=")
            video = video.filter(name, *filter(None, [value]))
        return video
    stream = found.stream if found else stream
    video = ffmpeg.input(HERE, threads=1, fflags="+discardcorrupt", **LOCAL)
    return video[f"{stream}" if stream is not None else "v:0"]


def _scaled(video, resolution: int, kernel: str):
    side = "min(iw*sar,ih)"
    return (
        video.filter(
            "scale",
            w=f"max({resolution},round({resolution}*iw*sar/{side}))",
            h=f"max({resolution},round({resolution}*ih/{side}))",
            flags=f"{kernel}+{EXACT}",
        )
        .filter("format", "rgb24")  # before the crop: a 4:2:0 crop can't start at an odd pixel
        .filter("crop", resolution, resolution, "trunc((in_w-out_w)/2)", "trunc((in_h-out_h)/2)")
    )


def _run(
    out,
    path: str | Path,
    files: list[Path] | None,
    stdout: BinaryIO | None = None,
    take: Callable[[BinaryIO], None] | None = None,
) -> tuple[int, list[str]]:
    """Run ffmpeg; (exit code, what it said). It reads `path`, or `files` as one stream of pictures.

    What comes out goes to the file `stdout`, or is read from a pipe by `take`.
    """
    name = "file:" + os.path.abspath(path)  # noqa: PTH100 - Path.absolute() keeps '..', and this is text for ffmpeg
    single = ("-filter_threads", "1", "-filter_complex_threads", "1")
    command = out.global_args("-nostdin", "-hide_banner", "-loglevel", "error", *single).compile(cmd=ffmpeg_program())
    # ffmpeg-python can't hold a name that is not UTF-8.
    command = [name if word == HERE else word for word in command]
    with tempfile.TemporaryFile() as log:
        stdin = subprocess.DEVNULL if files is None else subprocess.PIPE
        pipes = {"stdin": stdin, "stdout": stdout or subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, env=os.environ | TEXTS, **pipes) as process:
            feeder = None if files is None else Thread(target=_feed, args=(files, process.stdin), daemon=True)
            try:
                if feeder:
                    feeder.start()
                if take:
                    take(process.stdout)
                process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                if feeder:
                    feeder.join()
        log.seek(0)
        said = log.read(65536).decode(errors="replace").replace(name, "input").splitlines()
    return process.returncode, said


def _feed(files: list[Path], pipe: BinaryIO) -> None:
    """Pictures, one after the other."""
    try:
        with pipe:
            for path in files:
                pipe.write(first_picture(path))
    except (OSError, ValueError, SyntaxError):  # ffmpeg is gone, or a picture: the count of frames tells
        return


def _raw(pipe: BinaryIO, size: int) -> Iterator[np.ndarray]:
    """Frames of `size` bytes each, (size,) uint8."""
    while len(data := pipe.read(size)) == size:
        yield np.frombuffer(data, np.uint8)


def _ppm(pipe: BinaryIO) -> Iterator[np.ndarray]:
    """The pictures of a stream of binary PPM, (H, W, 3) uint8."""
    while pipe.readline():  # P6
        width, height = map(int, pipe.readline().split())
        pipe.readline()  # 255
        data = pipe.read(width * height * 3)
        if len(data) < width * height * 3:
            return
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _check(done: int, log: list[str], count: int, path: str | Path, expected: int | None) -> None:
    if any(os.strerror(errno.ENOSPC) in line for line in log):  # not the file's fault
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    damage = [line for line in log if DAMAGE.search(line) and not line.startswith("[in#")]
    if done or damage or not count or expected not in (None, count):
        if expected is not None:
            raise VideoError(f"damaged: {_bad_picture(Path(path)) or f'{count} of {expected} pictures decode'}")
        reason = (damage or log or ["no frame came out"])[0]
        raise VideoError(f"damaged: {ADDRESS.sub('', reason).strip()}")


def _bad_picture(folder: Path) -> str:
    """The first picture of a folder that does not decode, by name."""
    from PIL import Image

    for path in frame_files(folder):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return f"{path.name} ({error})"
    return ""
