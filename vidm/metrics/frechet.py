"""The Fréchet distance of two Gaussians, and the statistics that it needs, streamed.

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)        (Dowson & Landau 1982)

The last trace is the nuclear norm of F1 F2^T for any factors S = F^T F. So no matrix square root is needed and
nothing is squared: a covariance of fewer samples than dimensions, whose rank is short, keeps its accuracy.
"""

from __future__ import annotations

import numpy as np

from vidm.errors import InputError


class Moments:
    """Count, mean and scatter of feature vectors in float64, whatever the order they come in.

    Shards `merge` into what one pass over all would give (Chan, Golub & LeVeque 1979), to rounding.
    """

    def __init__(self, dimensions: int | None = None) -> None:
        self.count = 0
        self.mean = np.zeros(dimensions or 0)
        self.scatter = np.zeros((dimensions or 0,) * 2)  # sum of (x - mean)(x - mean)^T

    def update(self, features: np.ndarray) -> Moments:
        """Add features (N, d)."""
        features = _checked(features)
        part = Moments()
        if len(features):
            part.count = len(features)
            part.mean = features.mean(0)
            centred = features - part.mean
            part.scatter = centred.T @ centred
        return self.merge(part)

    def merge(self, other: Moments) -> Moments:
        """Add the samples that another one has seen."""
        if other.count == 0:
            return self
        if self.count == 0:
            self.count, self.mean, self.scatter = other.count, other.mean.copy(), other.scatter.copy()
            return self
        if self.mean.shape != other.mean.shape:
            raise InputError(f"features of {len(self.mean)} and {len(other.mean)} dimensions don't merge")
        count = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter + np.outer(shift, shift) * (self.count * other.count / count)
        self.mean += shift * (other.count / count)
        self.count = count
        return self

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """(d, d); divided by count - ddof. Raises InputError below 2 samples."""
        _enough(self.count)
        return self.scatter / (self.count - ddof)


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2:
        raise InputError(f"features must be (N, d), not {features.shape}")
    if not np.isfinite(features).all():
        raise InputError("features have values that are not finite; the detector or its input is broken")
    return features


def _enough(count: int) -> None:
    if count < 2:
        raise InputError(f"a covariance needs 2 videos or more, not {count}")


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The squared Fréchet distance (what FID and FVD report) of N(mean1, cov1) and N(mean2, cov2).

    Means (d,), covariances (d, d), symmetric and positive semi-definite, of any rank; computed in float64. It is
    symmetric in its two sides. Raises InputError for other shapes and for values that are not finite.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in (mean1, cov1, mean2, cov2))
    size = mean1.shape[0] if mean1.ndim == 1 else -1
    if mean2.shape != (size,) or cov1.shape != (size, size) or cov2.shape != (size, size):
        shapes = ", ".join(str(a.shape) for a in (mean1, cov1, mean2, cov2))
        raise InputError(f"a Fréchet distance needs means (d,) and covariances (d, d), not {shapes}")
    if not all(np.isfinite(a).all() for a in (mean1, cov1, mean2, cov2)):
        raise InputError("means and covariances must be finite")
    shift = mean1 - mean2
    overlap = np.linalg.svd(_factor(cov1) @ _factor(cov2).T, compute_uv=False).sum()
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * overlap)


def distance(real: np.ndarray, fake: np.ndarray, ddof: int = 0, root: str = "nuclear norm, float64") -> float:
    """The squared Fréchet distance of features (N, d) and (M, d). Raises InputError below 2 of each.

    With fewer samples than dimensions the centred features themselves are the factors: the same value, sooner.
    root "SVD, float32": covariances and their roots as DIGAN computes them.
    """
    if root == "SVD, float32":
        return _in_float32(real, fake, ddof)
    sides = [_checked(side) for side in (real, fake)]
    for side in sides:
        _enough(len(side))
    if max(map(len, sides)) < sides[0].shape[1]:
        factors = [(x - x.mean(0)) / np.sqrt(len(x) - ddof) for x in sides]
        shift = sides[0].mean(0) - sides[1].mean(0)
        overlap = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
        return float(shift @ shift + sum((f * f).sum() for f in factors) - 2 * overlap)
    one, two = (Moments().update(side) for side in sides)
    return frechet_distance(one.mean, one.covariance(ddof), two.mean, two.covariance(ddof))


def _in_float32(real: np.ndarray, fake: np.ndarray, ddof: int) -> float:
    """tr (S1 S2)^(1/2) as the trace of (R S2 R)^(1/2) with R = S1^(1/2), each root by SVD; values below 1e-10 stay."""
    one, two = (Moments().update(side) for side in (real, fake))
    s1, s2 = (m.covariance(ddof).astype(np.float32) for m in (one, two))

    def root(matrix: np.ndarray) -> np.ndarray:
        u, s, v = np.linalg.svd(matrix)
        return (u * np.where(s < 1e-10, s, np.sqrt(s))) @ v

    half = root(s1)
    shift = (one.mean - two.mean).astype(np.float32)
    return float(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(root(half @ s2 @ half)))


def _factor(cov: np.ndarray) -> np.ndarray:
    """F (rank, d) with F^T F = cov; what is rounding of zero is left away."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps if values[-1] > 0 else values > 0
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T
