"""Video files in and out: encode (PyAV's libx264), probe (PyAV), decode (ffmpeg)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidm.data.decoding import decode, ffmpeg_program, snapshot
from vidm.data.probing import Probe, VideoError, probe, probe_pictures, rgb
from vidm.files import replacing

__all__ = ["Probe", "VideoError", "decode", "encode", "ffmpeg_program", "probe", "probe_pictures", "rgb", "snapshot"]

# x264's AVX-512 code reads memory that nobody wrote: a few encodings in a hundred differ. SSE4.2 does not, gives the
# same bytes as the C code, and takes 5 % longer.
X264 = "threads=1" + (":asm=SSE4.2" if platform.machine().lower() in ("x86_64", "amd64") else "")


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
