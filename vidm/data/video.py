"""Video files in and out: encode (PyAV's libx264), probe (PyAV), decode (ffmpeg).

Files come from anywhere, so nothing that they say is followed: only local files, only real containers. A
playlist (hls, concat, dash, sdp, ...) that points elsewhere is not opened at all, and external references of
mov files stay off, as ffmpeg has them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from vidm.files import replacing

# Demuxers that hold their own frames. Not here: hls, dash, concat, sdp, image2, ffmetadata, lavfi, avisynth, ...
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,gif,apng,"
    "dv,mxf,rm,nut,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
)
LOCAL = {"protocol_whitelist": "file,pipe", "format_whitelist": CONTAINERS}
PLAYLIST = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat|file |;FFMETADATA|<\?xml|<MPD|<smil|\[playlist\]|\[reference\]|v=0\r?\n)",
    re.I,
)
# Files that begin like a video: what can't be read of them is damage, not another kind of file.
VIDEO = re.compile(
    rb".{4}(ftyp|moov|mdat|free|wide)|RIFF.{4}AVI |\x1a\x45\xdf\xa3|FLV|OggS|GIF8|\x00\x00\x01\xba", re.S
)
# A decoder that says this has painted over a hole. Other complaints (a short file, say) leave whole frames.
DAMAGE = re.compile(r"error|invalid|damaged|corrupt|missing picture", re.I)
ADDRESS = re.compile(r"\[[^][]* @ 0x[0-9a-f]+\]\s*")
# x264's AVX-512 code reads memory that nobody wrote: a few encodings in a hundred differ. SSE4.2 does not, gives the
# same bytes as the C code, and takes 5 % longer.
X264 = "threads=1" + (":asm=SSE4.2" if platform.machine().lower() in ("x86_64", "amd64") else "")
HERE = "file:input"  # stands for the name until the command is made
KERNELS = ("area", "bilinear", "bicubic", "lanczos")


class VideoError(Exception):
    """A file that can't be used; the text is the reason, without the file's name."""


@dataclass(frozen=True)
class Probe:
    """What a video file says of itself. width, height: pixels as stored, before the rotation."""

    container: str
    codec: str
    width: int
    height: int
    fps: float
    frames: int  # packets of the video stream, counted
    rotation: int  # degrees counter-clockwise to show it by
    stream: int  # index of the video stream

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def probe(path: str | Path) -> Probe:
    """Open a file without following anything and count its frames.

    Raises VideoError: empty, a playlist, not a video, no video stream, no picture that decodes.
    """
    import av

    try:
        with Path(path).open("rb") as file:
            start = file.read(256)
            if not start:
                raise VideoError("empty file")
            if PLAYLIST.match(start):
                raise VideoError("a playlist that may point elsewhere; such files are not opened")
            file.seek(0)
            # By the open file, not by its name: any name works, and nothing else can be opened beside it.
            with av.open(file, options=LOCAL) as container:
                return _probe(container)
    except (av.FFmpegError, ValueError) as error:
        kind = "damaged or truncated" if VIDEO.match(start) else "not a video"
        raise VideoError(f"{kind} ({getattr(error, 'strerror', None) or error})") from None
    except OSError as error:
        raise VideoError(f"can't be read ({error.strerror})") from None


def _probe(container) -> Probe:
    import av

    # A cover picture of a song is a "video" stream of one frame.
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        found = sorted({s.type for s in container.streams} - {"data"})
        if not found:
            raise VideoError("damaged or truncated: no picture or sound in it")
        raise VideoError(f"no video stream (only {', '.join(found)})")
    stream = streams[0]
    stream.thread_count = 1
    frames, first, fault = 0, None, ""
    for packet in container.demux(stream):
        frames += packet.size > 0
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.FFmpegError as error:
                fault = f" ({error.strerror})"
    if first is None:
        raise VideoError(f"damaged or truncated: no frame decodes{fault}")
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return Probe(
        container=container.format.name,
        codec=stream.codec_context.name,
        width=first.width,
        height=first.height,
        fps=float(rate) if rate else 25.0,
        frames=frames,
        rotation=int(first.rotation) % 360,
        stream=stream.index,
    )


@cache
def ffmpeg_program() -> str:
    """The system's ffmpeg where it is new enough (5.1, for -fps_mode), else the one of imageio-ffmpeg."""
    import imageio_ffmpeg

    system = shutil.which("ffmpeg")
    if system:
        text = subprocess.run([system, "-version"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"ffmpeg version n?(\d+)\.(\d+)", text)
        if version and (int(version[1]), int(version[2])) >= (5, 1):
            return system
    return imageio_ffmpeg.get_ffmpeg_exe()


def decode(
    path: str | Path,
    resolution: int,
    stride: int = 1,
    resize: str = "area",
    stream: int | None = None,
    folder: str | Path | None = None,
) -> np.ndarray:
    """All frames of a video, every `stride`-th, scaled and cropped: (T, resolution, resolution, 3) uint8, RGB.

    The picture is set upright and its pixels made square, the short side is scaled to `resolution` by the kernel
    `resize` (one of KERNELS), and the centre is cut out. The array is mapped from an unnamed temporary file in
    `folder` (default: the system's), so that a long video needs disk, not memory.

    Raises VideoError where ffmpeg reports damage or nothing comes out. A file that merely ends too early gives
    the frames that are whole.
    """
    import ffmpeg

    if resize not in KERNELS:
        raise ValueError(f"resize = {resize!r}; one of {', '.join(KERNELS)}")
    name = "file:" + os.path.abspath(path)  # noqa: PTH100 - Path.absolute() keeps '..', and this is text for ffmpeg
    side = "min(iw*sar,ih)"
    video = ffmpeg.input(HERE, threads=1, fflags="+discardcorrupt", **LOCAL)
    video = video[f"{stream}" if stream is not None else "v:0"]
    if stride > 1:
        video = video.filter("select", f"not(mod(n,{stride}))")
    video = (
        video.filter(
            "scale",
            w=f"max({resolution},round({resolution}*iw*sar/{side}))",
            h=f"max({resolution},round({resolution}*ih/{side}))",
            flags=f"{resize}+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact",
        )
        .filter("format", "rgb24")  # before the crop: a 4:2:0 crop can't start at an odd pixel
        .filter("crop", resolution, resolution, "trunc((in_w-out_w)/2)", "trunc((in_h-out_h)/2)")
    )
    out = video.output("pipe:1", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough", threads=1)
    command = out.global_args(
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-filter_threads",
        "1",
        "-filter_complex_threads",
        "1",
    ).compile(cmd=ffmpeg_program())
    # ffmpeg-python can't hold a name that is not UTF-8.
    command[command.index("-i") + 1] = name
    size = resolution * resolution * 3
    with tempfile.TemporaryFile(dir=folder) as raw, tempfile.TemporaryFile() as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=raw, stderr=log, check=False)
        log.seek(0)
        lines = log.read(65536).decode(errors="replace").replace(name, "input").splitlines()
        count = os.fstat(raw.fileno()).st_size // size
        damage = [line for line in lines if DAMAGE.search(line) and not line.startswith("[in#")]
        if done.returncode or damage or not count:
            reason = (damage or lines or ["no frame came out"])[0]
            raise VideoError(f"damaged: {ADDRESS.sub('', reason).strip()}")
        return np.memmap(raw, np.uint8, "r", shape=(count, resolution, resolution, 3))


def encode(
    path: str | Path,
    frames: np.ndarray,
    fps: float,
    crf: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an H.264 mp4 that plays in a browser; the same frames give the same bytes.

    Args:
        path: the .mp4 to write, beside which a temporary file is renamed.
        frames: (T, H, W, 3) uint8, RGB. An odd side is padded by repeating its edge.
        fps: frames per second.
        crf: x264's quality; 18 is visually lossless, 0 lossless.
        metadata: strings, kept as JSON in the file's `comment` tag.
    """
    import av

    path, frames = Path(path), np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"{path}: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:  # 4:2:0 has one colour sample for 2 x 2 pixels
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        replacing(path) as temporary,
        av.open(os.fspath(temporary), "w", format="mp4", options=options) as container,
    ):
        if metadata:
            container.metadata["comment"] = json.dumps(dict(metadata), sort_keys=True)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "x264-params": X264}
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact
        # Said in the file: players guess the matrix by the size otherwise.
        context.colorspace, context.color_range = 6, 1  # SMPTE 170M (BT.601), limited range
        for image in np.ascontiguousarray(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
