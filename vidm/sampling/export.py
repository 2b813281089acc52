"""Samples as people look at them: mp4s, a contact sheet, a moving preview. The metrics read the HDF5, never these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vidm.data.video import encode
from vidm.files import replacing

VIEW = 256  # pixels; smaller frames are enlarged to about this


def enlarged(frames: np.ndarray, side: int = VIEW) -> np.ndarray:
    """(T, S, S, 3) uint8 -> (T, kS, kS, 3), k the largest whole factor that stays within `side`."""
    k = max(1, side // frames.shape[1])
    if k == 1:
        return frames
    size = (frames.shape[2] * k, frames.shape[1] * k)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def write_video(path: Path, frames: np.ndarray, fps: float, provenance: dict[str, str]) -> None:
    """(T, S, S, 3) uint8 -> H.264 mp4 that a browser plays, enlarged for people, provenance in its metadata."""
    encode(path, enlarged(frames), fps, metadata=provenance)


def contact_sheet(path: Path, videos: np.ndarray, every: int = 2, side: int = 96) -> None:
    """(B, T, S, S, 3) uint8 -> a PNG with a row for each video and every k-th of its frames, as in Fig. 3."""
    strips = [enlarged(video[::every], side) for video in videos]
    height, width = strips[0].shape[1:3]
    gap, margin = 2, 18
    rows, columns = len(strips), len(strips[0])
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        draw.text((gap + column * (width + gap) + 2, 3), f"frame {column * every}", fill="black")
        for row in range(rows):
            place = (gap + column * (width + gap), margin + gap + row * (height + gap))
            sheet.paste(Image.fromarray(strips[row][column]), place)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def preview(path: Path, videos: np.ndarray, fps: float, columns: int = 8, side: int = 96) -> None:
    """(B, T, S, S, 3) uint8 -> an animated WebP, all videos side by side."""
    grid = [enlarged(video, side) for video in videos]
    height, width = grid[0].shape[1:3]
    columns = min(columns, len(grid))
    rows = -(-len(grid) // columns)
    frames = []
    for t in range(len(grid[0])):
        frame = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
        for k, video in enumerate(grid):
            frame.paste(Image.fromarray(video[t]), (k % columns * (width + 2), k // columns * (height + 2)))
        frames.append(frame)
    with replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=85,
        )
