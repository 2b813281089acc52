"""The embedded sky: a procedural time-lapse, the same for the same seed, whose motion is known.

A scene is, from back to front: a gradient with sun or moon, a veil of cirrus in half of them, the main clouds
(vidm/data/clouds.py), hills in a third. Clouds are lit by their height field h = sqrt(density): bright where
h falls towards the sun, dark in its lee and where they are thick, with a silver lining before the sun.

Shapes: a frame is (size, size, 3) uint8, a clip (T, size, size, 3). Lengths are in frame widths.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidm.config import Procedural
from vidm.data.clouds import Layer, smoothstep
from vidm.errors import InputError
from vidm.machine import cores
from vidm.progress import bar

RENDERER = 1  # raise it when the pictures change
SPLITS = ("train", "test")
_MARK = ".vidm-sky"  # survives a workflow that deletes manifest.json before it asks for a new one
_OWN = re.compile(r"(train|test)/sky_\d{5,}\.mp4|manifest\.json|\.vidm-sky|\.snakemake_timestamp")

# Colours by the sun's height, night to noon: zenith, horizon, cloud in light, cloud in shade, glow, hills.
_HEIGHTS = (0.0, 0.2, 0.38, 0.58, 0.8, 1.0)
_PALETTE = np.array(
    [
        [(8, 14, 40), (38, 58, 104), (128, 146, 188), (24, 34, 66), (150, 176, 230), (5, 7, 16)],
        [(44, 56, 112), (230, 136, 120), (240, 152, 142), (80, 68, 114), (255, 150, 96), (19, 17, 32)],
        [(78, 104, 164), (255, 178, 100), (255, 202, 146), (136, 98, 116), (255, 196, 104), (32, 25, 33)],
        [(74, 130, 200), (238, 214, 178), (255, 238, 210), (146, 140, 158), (255, 228, 178), (44, 48, 42)],
        [(46, 110, 198), (172, 208, 236), (255, 255, 252), (142, 158, 184), (255, 250, 232), (46, 68, 50)],
        [(24, 82, 176), (132, 186, 230), (255, 255, 255), (152, 166, 188), (255, 253, 242), (42, 74, 48)],
    ]
)


class Kind(NamedTuple):
    """A kind of cloud; pairs are the ends of a uniform draw."""

    share: float  # of the scenes
    wavelength: tuple[float, float]
    weights: tuple[float, ...]  # of the puffy octaves
    cover: tuple[float, float]  # share of the first picture
    softness: float  # of the edges
    stretch: tuple[float, float]
    curl: float
    relief: float  # contrast of light and shade
    grey: float  # at most


KINDS = {
    "cumulus": Kind(0.42, (0.60, 0.90), (0.72, 0.32), (0.30, 0.62), 0.40, (1.0, 1.4), 0.0, 1.0, 0.2),
    "altocumulus": Kind(0.15, (0.30, 0.42), (0.50, 0.22), (0.35, 0.60), 0.75, (1.0, 1.7), 0.03, 0.7, 0.2),
    "cirrus": Kind(0.18, (0.34, 0.50), (0.42, 0.28), (0.50, 0.80), 1.20, (2.2, 3.6), 0.045, 0.4, 0.2),
    "stratus": Kind(0.25, (0.80, 1.20), (0.60, 0.24), (0.80, 0.98), 1.00, (1.0, 1.8), 0.03, 0.7, 0.8),
}


class Scene:
    """One clip of the embedded sky, a function of (seed, split, index) alone.

    The same scene at every `size`; `frames` only sets where it ends.

    Raises:
        InputError: a split other than train and test.
    """

    def __init__(self, seed: int, split: str, index: int, size: int = 128, frames: int = 32) -> None:
        if split not in SPLITS:
            raise InputError(f"no split '{split}' in the embedded sky; known: {', '.join(SPLITS)}")
        self.size, self.length = size, frames
        line = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.u, self.v = line[None], line[:, None]
        rng = np.random.default_rng([seed % 2**64, SPLITS.index(split), index])
        self.kind = str(rng.choice(list(KINDS), p=[kind.share for kind in KINDS.values()]))
        # Height of the sun: mostly day, a third about sunset, some nights.
        heights = ((0.0, 0.1), (0.14, 0.45), (0.45, 0.7), (0.7, 1.0))
        self.height = rng.uniform(*heights[rng.choice(4, p=(0.1, 0.3, 0.2, 0.4))])
        self.night = self.height < 0.1
        self._clouds(rng, KINDS[self.kind])
        self._colours(rng, KINDS[self.kind])
        self._sky(rng)
        self._ground(rng)
        inner = self.main.at(0)[self.inner]
        self.threshold = np.float32(np.quantile(inner[self.ground < 0.5], 1 - rng.uniform(*KINDS[self.kind].cover)))

    def _clouds(self, rng: np.random.Generator, kind: Kind) -> None:
        # 2 to 5 px a frame at 128 px, in the middle of the picture, mostly sideways.
        speed = rng.uniform(2.0, 5.0) / 128
        heading = rng.choice([0, np.pi]) + rng.normal(0, 0.4)
        tilt = rng.uniform(0.1, 0.42)
        direction = np.array([np.cos(heading), np.sin(heading)])
        seen = direction * (1 - tilt / 2) ** np.array([1, 2])  # a step on the plane, as the picture shows it
        wind = direction * speed / np.hypot(*seen)
        rates = rng.uniform(0.6, 1.3) * np.array([0.008, 0.014, 0.02])
        margin = round(0.11 * self.size)
        self.inner = np.s_[margin : margin + self.size, margin : margin + self.size]
        self.margin = margin
        self.softness, self.relief = np.array([kind.softness, kind.relief]) * rng.uniform(0.85, 1.2, 2)
        self.main = Layer(
            rng,
            self.size,
            wavelength=rng.uniform(*kind.wavelength),
            weights=kind.weights,
            stretch=rng.uniform(*kind.stretch),
            heading=heading,
            curl=kind.curl,
            wind=wind,
            tilt=tilt,
            rates=rates,
            margin=margin,
        )
        # A veil of cirrus above, slower.
        self.veil = 0.0
        if self.kind != "cirrus" and rng.random() < 0.5:
            self.veil = rng.uniform(0.3, 0.75)
            self.high = Layer(
                rng,
                self.size,
                wavelength=rng.uniform(0.45, 0.7),
                weights=(0.5,),
                stretch=rng.uniform(2.0, 3.5),
                heading=heading + rng.normal(0, 0.25),
                curl=0.05,
                wind=wind * rng.uniform(0.3, 0.55),
                tilt=tilt,
                rates=rates[:2],
            )

    def _colours(self, rng: np.random.Generator, kind: Kind) -> None:
        keys = _PALETTE.reshape(len(_HEIGHTS), -1).T / 255
        colours = np.array([np.interp(self.height, _HEIGHTS, key) for key in keys]).reshape(6, 3)
        grey = kind.grey * rng.random()
        colours[:5] += grey * (colours[:5].mean(1, keepdims=True) * (0.96, 1.0, 1.05) - colours[:5])
        colours[:2] = colours[:2] * rng.uniform(0.85, 1.1) + rng.normal(0, 0.006 if self.night else 0.014, 3)
        colours[3] *= rng.uniform(0.78, 1.05)
        colours = np.clip(colours, 0, 1).astype(np.float32)
        self.zenith, self.horizon, self.lit, self.shade, self.glow, self.earth = colours
        self.haze = (rng.uniform(0.2, 0.7) * self.v**2.5).astype(np.float32)

    def _sky(self, rng: np.random.Generator) -> None:
        """What lies behind the clouds, (3, size, size), and where the light comes from."""
        x = rng.uniform(0.12, 0.88)
        y = np.interp(self.height, (0.1, 0.14, 0.45, 1), (0.25, 0.95, 0.62, -0.1)) + rng.normal(0, 0.07)
        r = np.hypot(self.u - np.float32(x), self.v - np.float32(y))
        warmth = np.interp(self.height, (0.1, 0.2, 0.4, 0.6, 1), (0.3, 0.9, 0.85, 0.6, 0.45))
        self.halo = (warmth * (0.55 * np.exp(-r / 0.28) + 0.45 * np.exp(-r / 0.09))).astype(np.float32)
        ramp = smoothstep(self.v ** rng.uniform(0.8, 1.5))[..., None]
        sky = self.zenith + ramp * (self.horizon - self.zenith)
        sky = sky + self.halo[..., None] * (self.glow - sky)
        radius = rng.uniform(0.03, 0.045)
        disc = smoothstep((radius - r) * self.size / 2 + 0.5)
        if self.night:
            places = (rng.random((60, 2)) * self.size).astype(int)
            for (row, column), magnitude in zip(places, rng.random(60), strict=True):
                sky[row, column] += np.float32(0.5 * magnitude**2)
            face = np.float32([0.95, 0.95, 0.9])
        else:
            disc = np.maximum(disc, np.exp(-np.maximum(r - radius, 0) / 0.03))  # it dazzles
            face = (0.4 * self.glow + 0.6 * np.float32([1, 0.98, 0.88])).astype(np.float32)
        sky = sky + disc[..., None] * (face - sky)
        self.sky = np.ascontiguousarray(sky.transpose(2, 0, 1), np.float32)
        self.bloom = np.float32(0.0 if self.night else 0.5) * np.exp(-r / np.float32(0.07)) * np.float32(warmth)
        towards = np.array([x - 0.5, min(y, 0.35) - 0.55])
        towards /= np.hypot(*towards)
        self.light = [np.rint(towards * reach * self.size).astype(int) for reach in (0.028, 0.06, 0.105)]

    def _ground(self, rng: np.random.Generator) -> None:
        """Hills: opacity (size, size) and colour (3, size, size); none in most scenes."""
        self.ground = np.zeros((self.size, self.size), np.float32)
        self.land = np.zeros((3, self.size, self.size), np.float32)
        ridges = int(rng.integers(1, 4)) if rng.random() < 0.3 else 0
        top, waves = rng.uniform(0.76, 0.88), np.arange(1, 7)[:, None]
        for ridge in range(ridges):
            height, phase = rng.normal(0, 0.05, (6, 1)) / waves**1.25, rng.random((6, 1))
            line = top + 0.06 * ridge + (height * np.sin(2 * np.pi * (0.8 * waves * self.u + phase))).sum(0)
            cover = smoothstep((self.v - line) * self.size * 0.7 + 0.5).astype(np.float32)
            near = (ridge + 1) / ridges
            colour = near * self.earth + (1 - near) * (0.55 * self.horizon + 0.45 * self.earth)
            self.land += cover * (colour[:, None, None].astype(np.float32) - self.land)
            self.ground = np.maximum(self.ground, cover)

    def _opacity(self, n: float) -> tuple[np.ndarray, np.ndarray]:
        """Opacity of the main layer in frame n, and its density with the margin."""
        density = np.maximum(self.main.at(n) - self.threshold, 0)
        alpha = 1 - np.exp(density[self.inner] * np.float32(-2.6 / self.softness))
        return alpha * alpha, density

    def frame(self, n: float) -> np.ndarray:
        """Frame n, (size, size, 3) uint8; n may lie between frames."""
        image = self.sky.copy()
        if self.veil:
            veil = smoothstep((self.high.at(n) + 0.6) * np.float32(0.4)) * np.float32(self.veil)
            veil *= 1 - self.bloom
            image += veil * ((0.8 * self.lit + 0.2 * self.glow)[:, None, None] - image)
        alpha, density = self._opacity(n)
        height = np.sqrt(density)  # rounds the rims: puffs, not sheets
        here, m = height[self.inner], self.margin
        relief = np.zeros_like(here)
        for (dx, dy), share in zip(self.light, (0.5, 0.4, 0.3), strict=True):
            sunward = height[m + dy : m + dy + self.size, m + dx : m + dx + self.size]
            relief += np.float32(share) * (here - sunward)
        lit = np.float32(0.62) + np.float32(0.9 * self.relief) * relief - np.float32(0.16) * here
        lit = smoothstep(lit + self.halo * (1 - alpha) * np.float32(0.9))
        near = self.halo * np.float32(0.45)
        for channel, below in enumerate(image):
            cloud = self.shade[channel] + lit * (self.lit[channel] - self.shade[channel])
            cloud += self.haze * (self.horizon[channel] - cloud)
            cloud += near * (self.glow[channel] - cloud)
            below += alpha * (cloud - below)
        image += self.bloom * self.glow[:, None, None] * (1 - image)
        image += self.ground * (self.land - image)
        np.clip(image, 0, 1, out=image)
        return (image * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)

    def frames(self) -> np.ndarray:
        """All frames, (T, size, size, 3) uint8."""
        return np.stack([self.frame(n) for n in range(self.length)])

    def flow(self, n_from: int, n_to: int) -> np.ndarray:
        """True motion (dx, dy), (2, size, size) float32, pixels, as SpyNet(reference n_from, supporting n_to).

        Frame n_to shows at p + flow what frame n_from shows at p. Zero where the picture stands still: on hills,
        on clear sky, on the sun.
        """
        opacity, _ = self._opacity(n_from)
        flow = self.main.flow(n_to - n_from)
        behind = self.high.flow(n_to - n_from) if self.veil > 0.5 else np.zeros_like(flow)
        return np.where(opacity > 0.5, flow, behind) * (self.ground < 0.5).astype(np.float32)

    def mask(self, n_from: int, n_to: int) -> np.ndarray:
        """Where texture of the main layer shows the flow: (size, size) float32 in [0, 1].

        Its opacity in both frames; zero on the ground and where the cloud leaves the picture.
        """
        flow = self.main.flow(n_to - n_from)
        line = np.arange(self.size)
        x, y = np.rint(flow[0] + line).astype(int), np.rint(flow[1] + line[:, None]).astype(int)
        inside = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        x, y = x.clip(0, self.size - 1), y.clip(0, self.size - 1)
        here, there = (self._opacity(n)[0] * (1 - self.ground) for n in (n_from, n_to))
        return np.minimum(here, there[y, x]) * inside


def _write(folder: str, facts: Procedural, split: str, index: int) -> None:
    from vidm.data import video

    scene = Scene(facts.seed, split, index, facts.size, facts.frames)
    video.encode(Path(folder) / split / f"sky_{index:05d}.mp4", scene.frames(), facts.fps)


def render(out: Path, facts: Procedural, workers: int = 0) -> str:
    """Write the embedded sky as H.264 files: out/train/sky_00000.mp4 ..., out/test/..., out/manifest.json.

    Any number of workers (0: one per core) gives the same bytes. A folder that was rendered before is
    replaced once the new one is complete. Returns a summary. Raises InputError if `out` holds anything else.
    """
    out = Path(out)
    _refuse_foreign(out)
    jobs = [(split, i) for split in SPLITS for i in range(getattr(facts, split))]
    workers = min(workers or cores(), cores(), len(jobs))
    place = out.resolve()
    temporary = place.with_name(f".{place.name}.{os.getpid()}.rendering")
    try:
        for split in SPLITS:
            (temporary / split).mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out}: can't be written ({error.strerror}); choose another --out") from None
    try:
        with bar(len(jobs), "render the embedded sky", "clips") as progress:
            for _ in _finished(jobs, str(temporary), facts, workers):
                progress.advance()
        manifest = {"renderer": RENDERER, "facts": facts.model_dump(), "files": len(jobs)}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (temporary / _MARK).touch()
        _refuse_foreign(out)  # again: something may have been put there meanwhile
        _replace(place, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(file.stat().st_size for file in out.rglob("*.mp4")) / 1e6
    return (
        f"{out}: {facts.train} train and {facts.test} test clips, {facts.frames} frames of "
        f"{facts.size}x{facts.size} at {facts.fps} fps, seed {facts.seed}, {size:.0f} MB"
    )


def _finished(jobs: list, folder: str, facts: Procedural, workers: int) -> Iterator[None]:
    if workers == 1:
        for split, index in jobs:
            yield _write(folder, facts, split, index)
        return
    splits, indices = zip(*jobs, strict=True)
    count = len(jobs)
    # Spawned, not forked: the caller may hold threads (torch, HDF5).
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        chunk = max(1, min(8, count // (4 * workers)))
        yield from pool.map(_write, [folder] * count, [facts] * count, splits, indices, chunksize=chunk)


def _refuse_foreign(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out}: not a folder; give --out a new one")
    if not out.is_dir():
        return
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    if files and not {"manifest.json", _MARK} & set(files):
        raise InputError(f"{out}: holds files that were not rendered here, such as '{files[0]}'; give another --out")
    for name in files:
        if not _OWN.fullmatch(name):
            raise InputError(f"{out}: holds '{name}', which was not rendered here; move it or give another --out")


def _replace(out: Path, new: Path) -> None:
    """Put `new` in the place of `out`, whose old content stays until then."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
