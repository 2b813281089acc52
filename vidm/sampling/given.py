"""Videos that are given in part: first frames from a folder of images or a store, or whole clips to be continued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vidm.data.probing import VideoError, rgb
from vidm.data.store import FrameStore, clip_hash, first_frames_hash
from vidm.errors import InputError

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Given:
    """The first frames of some videos, read when they are needed.

    frames: how many of each. size: their side, pixels. hashes, classes ("" where unknown), sources: one each.
    """

    path: Path
    frames: int
    size: int
    hashes: list[str]
    classes: list[str]
    store: FrameStore | None
    which: list[int] | list[Path]

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def sha256(self) -> str:
        """Of all of them, in order."""
        return first_frames_hash(self.frames, self.hashes)

    def read(self, numbers: list[int]) -> np.ndarray:
        """(V, frames, S, S, 3) uint8."""
        if self.store is not None:
            return np.stack([self.store.read(self.which[k], 0, self.frames) for k in numbers])
        return np.stack([_image(self.which[k], self.size)[None] for k in numbers])


def first_frames(path: Path, side: int) -> Given:
    """Frame 0 of every clip of a store's test split (of all where it has none), or the images of a folder by name.

    An image is turned as its camera noted, and its centre is cut out and scaled to `side` pixels.
    Raises InputError: nothing there, no image.
    """
    if path.is_file():
        return _clips(path, 1)
    files = images(path)
    hashes = [clip_hash(_image(file, side)[None]) for file in files]
    return Given(path, 1, side, hashes, [""] * len(files), None, files)


def images(path: Path) -> list[Path]:
    """The image files of a folder, by name. Raises InputError where there is none."""
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder or file; give a folder of images, or a store, whose frames are frame 0"
        )
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f"{path}: no image in it ({', '.join(sorted(IMAGES))}); give a folder of first frames")
    return files


def whole_clips(path: Path) -> Given:
    """Every clip of a store, of one length, to be continued. Raises InputError."""
    return _clips(path, None)


def _clips(path: Path, frames: int | None) -> Given:
    store = FrameStore(path)
    which = store.indices("test" if "test" in store.splits else None)
    if not which:
        raise InputError(f"{path}: holds no clip")
    if store.shape[0] != store.shape[1]:
        raise InputError(f"{path}: frames of {store.shape[1]} x {store.shape[0]} pixels; they must be squares")
    lengths = sorted({store.length(i) for i in which})
    if frames is None and len(lengths) > 1:
        raise InputError(
            f"{path}: clips of {lengths[0]} to {lengths[-1]} frames; those to be continued are of one length"
        )
    return Given(
        path,
        frames or lengths[0],
        store.shape[0],
        [store.hashes[i] for i in which],
        [store.classes[i] for i in which],
        store,
        which,
    )


def _image(path: Path, side: int) -> np.ndarray:
    """(side, side, 3) uint8, the centre of an image file. Raises InputError."""
    try:
        with Image.open(path) as image:
            upright = rgb(ImageOps.exif_transpose(image))
            # Area averaging, as `vidm data extract` scales; BOX would enlarge by repeating pixels.
            kernel = Image.Resampling.BOX if min(upright.size) >= side else Image.Resampling.BICUBIC
            return np.asarray(ImageOps.fit(upright, (side, side), kernel))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, VideoError) as error:
        raise InputError(f"{path}: not a readable image ({' '.join(str(error).split())[:120]})") from None
