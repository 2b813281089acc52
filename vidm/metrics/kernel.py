"""Kernel distances: the squared maximum mean discrepancy of features, unbiased (Binkowski et al. 2018).

    k(x, y) = (x y / d + 1)^3
    MMD^2   = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

On Inception features of frames it is KID, averaged over random subsets; on the logits of the video detector KVD
(Unterthiner et al. 2018), over all clips at once. Being unbiased, it may be negative, and its expectation does not
depend on the number of clips.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vidm.errors import InputError

BLOCK = 1024  # rows of a kernel matrix at a time


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of features (N, d) and (M, d), in float64. Raises InputError below 2 of each."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"a kernel distance needs features (N, d) and (M, d), not {x.shape} and {y.shape}")
    if len(x) < 2 or len(y) < 2:
        raise InputError(f"a kernel distance needs 2 of each side or more, not {len(x)} and {len(y)}")
    same = [(_sum(a, a) - _diagonal(a)) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return float(sum(same) - 2 * _sum(x, y) / (len(x) * len(y)))


def over_subsets(x: np.ndarray, y: np.ndarray, subsets: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) of MMD^2 over subsets, each (indices into x, indices into y)."""
    values = [mmd2(x[i], y[j]) for i, j in subsets]
    return float(np.mean(values)), float(np.std(values))


def seeded_subsets(n: int, m: int, size: int, count: int, seed: int = 0) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """`count` pairs of `size` indices below n and m, without replacement, seeded."""
    rng = np.random.default_rng([seed, size, count])
    for _ in range(count):
        yield rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)


def _sum(x: np.ndarray, y: np.ndarray) -> float:
    d = x.shape[1]
    return float(sum(((x[i : i + BLOCK] @ y.T / d + 1) ** 3).sum() for i in range(0, len(x), BLOCK)))


def _diagonal(x: np.ndarray) -> float:
    return float((((x * x).sum(1) / x.shape[1] + 1) ** 3).sum())
