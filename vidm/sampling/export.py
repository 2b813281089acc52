"""Videos as people look at them: mp4, gif, webp, contact sheets and filmstrips. The metrics read the HDF5, never these.

Every file says what it is of: `provenance` (experiment, seed, videos, hashes of the checkpoints) goes into its metadata
as JSON: `comment` of an mp4 or gif, `Comment` of a png, the EXIF image description of a webp. `provenance_of` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from vidm.data.video import encode
from vidm.files import replacing

VIEW = 256  # pixels; smaller frames are enlarged to about this
DESCRIPTION = 0x010E  # EXIF
GAP = 2


def enlarged(frames: np.ndarray, side: int = VIEW) -> np.ndarray:
    """(T, S, S, 3) uint8 -> (T, kS, kS, 3), k the largest whole factor that stays within `side`."""
    k = max(1, side // frames.shape[1])
    if k == 1:
        return frames
    size = (frames.shape[2] * k, frames.shape[1] * k)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def write_video(path: Path, frames: np.ndarray, fps: float, provenance: Mapping[str, str]) -> None:
    """(T, S, S, 3) uint8 -> a moving picture by the name's ending, enlarged for people; see `write_moving`."""
    write_moving(path, enlarged(frames), fps, provenance)


def write_moving(path: Path, frames: np.ndarray, fps: float, provenance: Mapping[str, str]) -> None:
    """(T, H, W, 3) uint8 -> .mp4 (H.264, yuv420p, plays in a browser), .gif or .webp, both of which repeat."""
    kind = path.suffix[1:].lower()
    if kind == "mp4":
        encode(path, frames, fps, metadata=provenance)
        return
    text = _text(provenance)
    options = {"gif": {"comment": text.encode()}, "webp": {"exif": _exif(text), "quality": 85}}[kind]
    images = [Image.fromarray(np.ascontiguousarray(f)) for f in frames]
    with replacing(path) as temporary:
        images[0].save(
            temporary,
            format=kind.upper(),
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / fps),
            loop=0,
            **options,
        )


def contact_sheet(
    path: Path,
    videos: Sequence[np.ndarray],
    provenance: Mapping[str, str] | None = None,
    every: int = 2,
    side: int = 96,
    names: Sequence[str] = (),
) -> None:
    """Videos (T, S, S, 3) uint8 -> a PNG with a row for each and every k-th of its frames, as in Fig. 3.

    names: a word before each row.
    """
    strips = [enlarged(video[::every], side) for video in videos]
    height, width = strips[0].shape[1:3]
    top, left = 18, 8 + max((7 * len(name) for name in names), default=-8)
    rows, columns = len(strips), max(map(len, strips))
    size = (left + columns * (width + GAP) + GAP, rows * (height + GAP) + GAP + top)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, strip in enumerate(strips):
        y = top + GAP + row * (height + GAP)
        if names:
            draw.text((4, y + height // 2 - 6), names[row], fill="black")
        for column, frame in enumerate(strip):
            x = left + GAP + column * (width + GAP)
            if row == 0:
                draw.text((x + 2, 3), f"frame {column * every}", fill="black")
            sheet.paste(Image.fromarray(frame), (x, y))
    note = PngImagePlugin.PngInfo()
    note.add_itxt("Comment", _text(provenance or {}))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=note)


def grid(videos: Sequence[np.ndarray], columns: int = 8, side: int = 96) -> np.ndarray:
    """Videos (T, S, S, 3) uint8 of one size, side by side: (T, H, W, 3). The shortest one ends it."""
    tiles = [enlarged(video, side) for video in videos]
    height, width = tiles[0].shape[1:3]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    shape = (min(map(len, tiles)), rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    frames = np.full(shape, 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = k // columns * (height + GAP), k % columns * (width + GAP)
        frames[:, y : y + height, x : x + width] = tile[: len(frames)]
    return frames


def preview(
    path: Path,
    videos: Sequence[np.ndarray],
    fps: float,
    provenance: Mapping[str, str] | None = None,
    columns: int = 8,
    side: int = 96,
) -> None:
    """Videos (T, S, S, 3) uint8, all side by side, as one moving picture."""
    write_moving(path, grid(videos, columns, side), fps, provenance or {})


def provenance_of(path: Path) -> dict[str, str]:
    """What a picture says about itself; {} where it says nothing."""
    kind = path.suffix.lower()
    if kind == ".mp4":
        import av

        with av.open(str(path)) as container:
            return json.loads(container.metadata.get("comment", "{}"))
    with Image.open(path) as image:
        said = {
            ".png": lambda: image.info.get("Comment", "{}"),
            ".gif": lambda: image.info.get("comment", b"{}").decode(),
            ".webp": lambda: image.getexif().get(DESCRIPTION, "{}"),
        }[kind]()
    return json.loads(said)


def _text(provenance: Mapping[str, str]) -> str:
    return json.dumps(dict(provenance), sort_keys=True)


def _exif(text: str) -> bytes:
    exif = Image.Exif()
    exif[DESCRIPTION] = text
    return exif.tobytes()
