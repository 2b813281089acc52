"""Pictures of a training as it goes: the same few items each time, by the averaged weights.

    content   a frame from noise                                   one row of frames
    motion    first | previous | predicted | true, one clip a row

Items and noise are fixed, so that two pictures differ by the training alone. Drawing them takes nothing from it: they
have their own noise, and the network that trains is not touched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from vidm.config import Content, Motion
from vidm.data.clips import FrameDraw, TripletDraw, collate
from vidm.diffusion.samplers import Sampler
from vidm.files import replacing
from vidm.training.own import next_frame

ITEMS, STEPS, SIDE = 6, 10, 96  # items, denoising steps, pixels of a cell at least


class Preview:
    """`draw(network, path)` writes a PNG of what `network` makes of the first items of `source`."""

    def __init__(self, source: FrameDraw | TripletDraw, facts: Content | Motion, classed: bool, seed: int) -> None:
        self.batch = collate([source.item(0, k) for k in range(ITEMS)])
        self.moving = isinstance(source, TripletDraw)
        whole = not self.moving or facts.target == "frame"
        steps = min(STEPS, facts.diffusion.steps)
        self.sampler = Sampler(facts.diffusion, "ddim", steps, 0.0, True, bounded=whole)
        self.classed = classed
        shape = (ITEMS, 1, 3, *source.store.shape)
        self.noise = torch.from_numpy(np.random.default_rng((seed, ITEMS)).standard_normal(shape, dtype=np.float32))

    @torch.inference_mode()
    def draw(self, network: nn.Module, path: Path) -> None:
        device, before = next(network.parameters()).device, network.training
        network.eval()
        batch = {key: value.to(device) for key, value in self.batch.items()}
        label = batch["cls"] if self.classed else None

        noise = self.noise.to(device)
        if self.moving:
            frames = [batch["previous"], *(batch["history"].unbind(1) if "history" in batch else ())]
            made = next_frame(network, self.sampler, frames, batch["first"], batch["n"], noise[:, 0], label)
        else:
            made = self.sampler(lambda x_t, t: network(x_t, t, label), noise)
        network.train(before)
        if self.moving:
            columns = {
                "first": batch["first"],
                "previous": batch["previous"],
                "predicted": made,
                "true": batch["target"],
            }
            numbers = [f"frame {int(n)}" for n in batch["n"]]
            sheet(path, [[columns[name][k] for name in columns] for k in range(ITEMS)], list(columns), numbers)
        else:
            sheet(path, [list(made)], [], [])


def sheet(path: Path, rows: list[list[Tensor]], heads: list[str], names: list[str]) -> None:
    """A grid of images (3, S, S) in [-1, 1] as a PNG, with a word over each column and before each row."""
    size = rows[0][0].shape[-1]
    side = size * max(1, -(-SIDE // size))
    left, top, gap = 64 if names else 0, 18 if heads else 0, 2
    picture = Image.new("RGB", (left + len(rows[0]) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(picture)
    for r, row in enumerate(rows):
        if names:
            draw.text((4, top + r * (side + gap) + side // 2 - 6), names[r], fill="black")
        for c, image in enumerate(row):
            if heads and r == 0:
                draw.text((left + c * (side + gap) + 2, 3), heads[c], fill="black")
            grey = ((image.float().cpu().permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            cell = Image.fromarray(np.ascontiguousarray(grey)).resize((side, side), Image.Resampling.NEAREST)
            picture.paste(cell, (left + c * (side + gap), top + r * (side + gap)))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
