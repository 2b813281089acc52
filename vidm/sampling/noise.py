"""Noise by address: video k of seed s gets the same noise whatever the batch, the shard, the workers or the device.

A frame's noise is drawn on the CPU, whole, before the frame starts: x_T first, then the draws of a stochastic sampler.
Correlation over frames (beyond the paper, 0 there): x(n)_T = sqrt(c) shared + sqrt(1 - c) fresh(n), still N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vidm.machine import cores

CONTENT, MOTION, SHARED, LABEL = range(4)  # streams of one video


def _normal(address: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(address).standard_normal(shape, dtype=np.float32)


class VideoNoise:
    """The noise of one video. `size`: side of the square frame, pixels.

    `content_of`: the video whose frame 0 it shares; by default it has its own.
    """

    def __init__(self, seed: int, video: int, size: int, correlation: float, content_of: int | None = None) -> None:
        self.seed, self.video, self.size, self.correlation = seed, video, size, correlation
        self.content_of = video if content_of is None else content_of
        self.shared = _normal(self._address(SHARED, 0), (3, size, size))

    def _address(self, stream: int, frame: int) -> tuple[int, ...]:
        # numpy drops trailing zeros: no address may end in one
        return (self.seed, self.content_of if stream == CONTENT else self.video, stream, frame + 1)

    def content(self, draws: int) -> np.ndarray:
        """(1 + draws, 3, S, S) for frame 0."""
        return _normal(self._address(CONTENT, 0), (1 + draws, 3, self.size, self.size))

    def motion(self, n: int, draws: int) -> np.ndarray:
        """(1 + draws, 3, S, S) for frame n."""
        noise = _normal(self._address(MOTION, n), (1 + draws, 3, self.size, self.size))
        c = self.correlation
        noise[0] = math.sqrt(c) * self.shared + math.sqrt(1 - c) * noise[0]
        return noise


class Drawn:
    """The noise of frame after frame; beside a GPU by threads, and ahead of the frame that it works on.

    numpy draws without the interpreter's lock. With 100 stochastic steps a frame's noise takes a core about as long as
    a GPU has for the frame. A CPU's cores are with the networks.
    """

    def __init__(self, device: torch.device) -> None:
        self.threads = None if device.type == "cpu" else ThreadPoolExecutor(cores())
        self.ahead: dict[tuple[VideoNoise, int], Future[np.ndarray]] = {}

    def begin(self, videos: Sequence[VideoNoise], n: int, draws: int) -> None:
        """Frame n of these videos will be asked for."""
        if self.threads is not None:
            self.ahead |= {(video, n): self.threads.submit(video.motion, n, draws) for video in videos}

    def motion(self, videos: Sequence[VideoNoise], n: int, draws: int) -> list[np.ndarray]:
        """(1 + draws, 3, S, S) for frame n of each video."""
        begun = [self.ahead.pop((video, n), None) for video in videos]
        return [v.motion(n, draws) if b is None else b.result() for v, b in zip(videos, begun, strict=True)]


def label_of(seed: int, video: int, counts: Sequence[int]) -> int:
    """The class of a video, drawn as often as the class is in the training clips: an index into `counts`."""
    share = np.asarray(counts, dtype=np.float64)
    return int(np.random.default_rng((seed, video, LABEL, 1)).choice(len(share), p=share / share.sum()))


def stacked(arrays: list[np.ndarray], device: torch.device) -> Tensor:
    """One array a video -> (B, ...) on the device."""
    return torch.from_numpy(np.stack(arrays)).to(device)
