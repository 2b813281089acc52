"""A sample sheet: a grid of clips in one video, as papers show them, cut into its clips without a further loss."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidm.data.video import X264, VideoError, probe
from vidm.errors import InputError
from vidm.files import replacing

COLUMNS, ROWS, CELL, BORDER = 8, 6, 128, 2  # of the Sky Time-lapse sheet, pixels


def cut(sheet: Path, out: Path) -> str:
    """Write the cells of a sheet as out/sky_00.mp4 ..., row by row; return a summary.

    The decoded samples are copied as they are (Y, U and V apart: every cell begins at an even pixel) and kept by
    lossless H.264, so that a clip went through no codec more than the sheet. Raises InputError.
    """
    import av

    wide, high = (n * CELL + (n + 1) * BORDER for n in (COLUMNS, ROWS))
    try:
        found = probe(sheet)
        if (found.width, found.height) != (wide, high):
            raise VideoError(f"{found.width} x {found.height} pixels, expected {wide} x {high}")
        with av.open(os.fspath(sheet)) as container:
            frames = [_planes(frame) for frame in container.decode(video=0)]
    except (VideoError, av.FFmpegError) as error:
        raise InputError(f"{sheet}: not the sheet of {COLUMNS} x {ROWS} clips ({error})") from None
    names = []
    for k in range(COLUMNS * ROWS):
        y, x = (BORDER + n * (CELL + BORDER) for n in divmod(k, COLUMNS))
        path = out / f"sky_{k:02d}.mp4"
        _lossless(path, [_cell(planes, y, x) for planes in frames], found.fps)
        names.append(path)
    return f"{out}: {len(names)} clips, {len(frames)} frames of {CELL} x {CELL}, {found.fps:g} fps"


def _planes(frame) -> list[np.ndarray]:
    """Y, U and V of a frame: (H, W) and twice (H/2, W/2) uint8."""
    flat = frame.reformat(format="yuv420p").to_ndarray()  # no change where it is 4:2:0 already, as such sheets are
    height, width = frame.height, frame.width
    quarter = height * width // 4
    luma, chroma = flat[:height], flat[height:].ravel()
    return [luma, *(chroma[k * quarter : (k + 1) * quarter].reshape(height // 2, width // 2) for k in range(2))]


def _cell(planes: list[np.ndarray], y: int, x: int) -> np.ndarray:
    """One cell as PyAV wants 4:2:0: (1.5 CELL, CELL) uint8."""
    shares = zip(planes, (1, 2, 2), strict=True)
    cells = [plane[y // k : (y + CELL) // k, x // k : (x + CELL) // k] for plane, k in shares]
    return np.concatenate([cell.reshape(-1, CELL) for cell in cells])


def _lossless(path: Path, frames: list[np.ndarray], fps: float) -> None:
    import av

    with replacing(path) as temporary, av.open(os.fspath(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height = stream.width = CELL
        stream.pix_fmt = "yuv420p"
        stream.options = {"qp": "0", "x264-params": X264}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="yuv420p")))
        container.mux(stream.encode())
