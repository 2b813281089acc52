"""Pairs of pictures with known flow, to train and to judge a flow network: the embedded sky and moving textures.

A batch is a function of (seed, step) alone. A part of it are pairs of the embedded sky, the rest moving textures
(textures.py), some of which show the sky's pictures. Some then show in places what the other picture has not, and both
get other light, noise and sharpness: what a flow network has to bear. No one's videos are in it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from vidm.data.procedural import Scene
from vidm.data.textures import Pairs, chance, log_uniform, moving, noise, textures, uniform
from vidm.progress import bar

SIDE = 128  # of the rendered sky
SKY, SKY_TEXTURE = 0.4, 0.2  # shares of a batch
CHANGED = 0.4  # share of pairs whose pictures differ by more than motion


def _tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame.transpose(2, 0, 1).copy())


class Sky:
    """Pairs of the embedded sky in memory: frame 0 of scenes, and later times of each, with flow and weight.

    scenes: how many; 0.3 MB each. Times are up to 6 frames, 0.6 to 30 pixels of 128. The weight is 1 where cloud is
    opaque and on the ground, a tenth elsewhere: what a veil shows has two motions.
    """

    TIMES = 3

    def __init__(self, scenes: int, split: str = "train", seed: int = 0) -> None:
        rng = np.random.default_rng([seed, scenes])
        self.first = torch.empty(scenes, 3, SIDE, SIDE, dtype=torch.uint8)
        self.later = torch.empty(scenes, self.TIMES, 3, SIDE, SIDE, dtype=torch.uint8)
        self.flow = torch.empty(scenes, self.TIMES, 2, SIDE, SIDE, dtype=torch.float16)
        self.weight = torch.empty(scenes, self.TIMES, 1, SIDE, SIDE, dtype=torch.float16)
        with bar(scenes, "render the embedded sky", "scenes") as progress:
            for i in range(scenes):
                scene = Scene(seed, split, i, size=SIDE)
                self.first[i] = _tensor(scene.frame(0))
                for k, time in enumerate(np.exp(rng.uniform(np.log(0.2), np.log(6), self.TIMES))):
                    self.later[i, k] = _tensor(scene.frame(time))
                    self.flow[i, k] = torch.from_numpy(scene.flow(0, time))
                    sure = np.maximum(scene.mask(0, time), scene.ground).clip(0.1, 1)
                    self.weight[i, k, 0] = torch.from_numpy(sure)
                progress.advance()

    def __len__(self) -> int:
        return len(self.first)

    def pairs(self, rng: Generator, count: int, size: int) -> Pairs:
        """Random crops, averaged down to (size, size)."""
        factors = [2**k for k in range(8) if size * 2**k <= SIDE][-2:]  # a quarter of the picture, or about all of it
        rows = []
        for _ in range(count):
            i, k, f = (int(torch.randint(n, (), generator=rng)) for n in (len(self), self.TIMES, len(factors)))
            factor = factors[f]
            side = size * factor
            y, x = (int(v) for v in torch.randint(SIDE - side + 1, (2,), generator=rng))
            cut = np.s_[:, y : y + side, x : x + side]
            parts = (
                self.first[i][cut] / 255,
                self.later[i, k][cut] / 255,
                self.flow[i, k][cut],
                self.weight[i, k][cut],
            )
            reference, supporting, flow, weight = (F.avg_pool2d(v.float(), factor) for v in parts)
            rows.append((reference, supporting, flow / factor, weight))
        return Pairs(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def pictures(self, rng: Generator, count: int, side: int) -> Tensor:
        """First frames as textures, (count, 3, side, side)."""
        chosen = self.first[torch.randint(len(self), (count,), generator=rng)] / 255
        return F.interpolate(chosen, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def batch(sky: Sky, seed: int, step: int, count: int, size: int) -> Pairs:
    """`count` pairs of (size, size) pictures, a function of (seed, step, count, size)."""
    state = np.random.SeedSequence([seed, step, size]).generate_state(1, np.uint64)
    rng = Generator().manual_seed(int(state[0] >> 1))
    skies = round(SKY * count) if size <= SIDE else 0
    pictures, rest = round(SKY_TEXTURE * count), count - skies
    side = max(32, size * 3 // 2)
    canvas, over = textures(rng, 2 * rest, side).chunk(2)
    if pictures:
        canvas = torch.cat([sky.pictures(rng, pictures, side), canvas[pictures:]])
    made = moving(rng, size, canvas, over)
    if skies:
        made = Pairs(*(torch.cat(v) for v in zip(sky.pairs(rng, skies, size), made, strict=True)))
    return turned(rng, seen(rng, changed(rng, made)))


def changed(rng: Generator, pairs: Pairs) -> Pairs:
    """The reference shows something of another pair in places, as clouds form and dissolve; these weigh less."""
    count, size = len(pairs.flow), pairs.flow.shape[-1]
    edge = log_uniform(rng, count, 2, 20)
    mask = torch.sigmoid(
        edge * (noise(rng, count, 1, max(2, size))[..., :size, :size] - uniform(rng, count, -0.3, 1.5))
    )
    mask = mask * uniform(rng, count, 0.1, 1) * chance(rng, count, CHANGED)
    other = pairs.supporting.roll(1, 0)
    reference = pairs.reference + mask * (other - pairs.reference)
    return pairs._replace(reference=reference, weight=pairs.weight * (1 - mask))


def seen(rng: Generator, pairs: Pairs) -> Pairs:
    """Other light, noise and sharpness; most of it common to both pictures of a pair, some not."""
    count, size = len(pairs.flow), pairs.flow.shape[-1]
    common = uniform(rng, count, 0.5, 1.3), uniform(rng, count, -0.2, 0.2), log_uniform(rng, count, 0.7, 1.4)
    soft = chance(rng, count, 0.25)
    grain = log_uniform(rng, count, 0.001, 0.03)
    images = []
    for image in (pairs.reference, pairs.supporting):
        contrast, light, gamma = common
        image = image.clamp(1e-3, 1) ** gamma
        own = uniform(rng, count, 0.97, 1.03)
        mean = image.mean((1, 2, 3), keepdim=True)
        image = contrast * own * (image - mean) + mean + light + uniform(rng, count, -0.015, 0.015)
        if size >= 8:
            blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            image = image + soft * (blurred - image)
        images.append((image + grain * torch.randn(image.shape, generator=rng)).clamp(0, 1))
    return pairs._replace(reference=images[0], supporting=images[1])


def turned(rng: Generator, pairs: Pairs) -> Pairs:
    """Mirrored and transposed at random, picture by picture."""
    rows = [
        (_turned(*row, *(bool(v) for v in torch.randint(2, (3,), generator=rng)))) for row in zip(*pairs, strict=True)
    ]
    return Pairs(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _turned(
    reference: Tensor, supporting: Tensor, flow: Tensor, weight: Tensor, across: bool, down: bool, swap: bool
) -> tuple[Tensor, ...]:
    axes = [axis for axis, wanted in ((2, across), (1, down)) if wanted]
    sign = torch.tensor([-1.0 if across else 1.0, -1.0 if down else 1.0]).view(2, 1, 1)
    parts = [v.flip(axes) for v in (reference, supporting, flow * sign, weight)]
    if swap:
        parts = [v.transpose(1, 2) for v in parts]
        parts[2] = parts[2].flip(0)
    return tuple(parts)


def wind(size: int, scenes: int = 16, frames: int = 2, seed: int = 0) -> Pairs:
    """Test clips of the embedded sky, frame 0 to frame `frames`, to judge by; weight: opacity of the main clouds.

    Scenes of cumulus and altocumulus alone: through the others one sees a second motion.
    """
    rows, index = [], 0
    while len(rows) < scenes:
        scene = Scene(seed, "test", index, size=size)
        index += 1
        if scene.kind in ("cumulus", "altocumulus"):
            first, later = (_tensor(scene.frame(n)).float() / 255 for n in (0, frames))
            truth, mask = scene.flow(0, frames), scene.mask(0, frames)[None]
            rows.append((first, later, torch.from_numpy(truth), torch.from_numpy(mask)))
    return Pairs(*(torch.stack(column) for column in zip(*rows, strict=True)))
