"""The Fréchet distance against exact solutions and an independent square root; moments against numpy."""

import mpmath
import numpy as np
import pytest
import scipy.linalg

from vidm.errors import InputError
from vidm.metrics.frechet import Moments, distance, frechet_distance


def random_covariance(rng, d, rank=None):
    factor = rng.normal(size=(d, rank or d))
    return factor @ factor.T


def test_diagonal_gaussians_are_exact():
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 7))
    s1, s2 = rng.uniform(0.1, 5, size=(2, 7))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2)) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_are_exact():
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    s1, s2 = rng.uniform(0.1, 5, size=(2, 20))
    zero = np.zeros(20)
    found = frechet_distance(zero, q @ np.diag(s1**2) @ q.T, zero, q @ np.diag(s2**2) @ q.T)
    assert found == pytest.approx(((s1 - s2) ** 2).sum(), rel=1e-11)


@pytest.mark.parametrize("rank", [5, 2])
def test_general_covariances_agree_with_mpmath(rank):
    rng = np.random.default_rng(rank)
    c1, c2 = random_covariance(rng, 5, rank), random_covariance(rng, 5, rank)
    m1, m2 = rng.normal(size=(2, 5))
    with mpmath.workdps(40):
        values, vectors = mpmath.eigsy(mpmath.matrix(c1.tolist()))
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        inner = root * mpmath.matrix(c2.tolist()) * root
        overlap = sum(mpmath.sqrt(max(v, 0)) for v in mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True))
        expected = float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * overlap)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-7)


def test_of_itself_is_zero_even_where_the_rank_is_short():
    features = np.random.default_rng(2).normal(size=(10, 400)) * 30
    moments = Moments().update(features)
    cov = moments.covariance(0)
    assert abs(frechet_distance(moments.mean, cov, moments.mean, cov)) < 1e-9 * np.trace(cov)


def test_short_rank_agrees_with_the_gram_matrix():
    # tr (S1 S2)^(1/2) is also the nuclear norm of A1 A2^T / (N - 1), with the centred features as factors.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 400)), rng.normal(size=(20, 400)) * 2 + 1
    a, b = (x - x.mean(0)) / np.sqrt(29), (y - y.mean(0)) / np.sqrt(19)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap
    one, two = Moments().update(x), Moments().update(y)
    found = frechet_distance(one.mean, one.covariance(), two.mean, two.covariance())
    assert found == pytest.approx(expected, rel=1e-10)


def test_at_full_rank_it_is_scipys_root():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(900, 400)), rng.normal(size=(900, 400)) * rng.uniform(0.5, 2, 400) + 0.1
    one, two = Moments().update(x), Moments().update(y)
    c1, c2 = one.covariance(), two.covariance()
    root = np.real(scipy.linalg.sqrtm(c1 @ c2))
    expected = ((one.mean - two.mean) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root)
    found = frechet_distance(one.mean, c1, two.mean, c2)
    assert type(found) is float and found == pytest.approx(expected, rel=1e-8)
    assert distance(x, y, ddof=1) == found
    # DIGAN's roots, in float32, are the same but for their precision.
    assert distance(x, y, 1, "SVD, float32") == pytest.approx(found, rel=1e-3)


def test_distance_of_features_is_that_of_their_gaussians():
    rng = np.random.default_rng(9)
    for n, m in ((30, 20), (30, 60), (90, 60)):  # below and above the dimensions: two ways to one value
        x, y = rng.normal(size=(n, 40)), rng.normal(size=(m, 40)) + 1
        one, two = Moments().update(x), Moments().update(y)
        for ddof in (0, 1):
            expected = frechet_distance(one.mean, one.covariance(ddof), two.mean, two.covariance(ddof))
            assert distance(x, y, ddof) == pytest.approx(expected, rel=1e-9)
        assert abs(distance(x, x)) <= 1e-6 * x.var(0).sum()
    with pytest.raises(InputError, match="2 videos or more, not 1"):
        distance(x[:1], y)


def test_symmetric_and_blind_to_a_rotation():
    rng = np.random.default_rng(4)
    m1, m2 = rng.normal(size=(2, 12))
    c1, c2 = random_covariance(rng, 12), random_covariance(rng, 12, 4)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    value = frechet_distance(m1, c1, m2, c2)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(q @ m1, q @ c1 @ q.T, q @ m2, q @ c2 @ q.T) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("ddof", [0, 1])
def test_streamed_moments_are_numpys(ddof):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(101, 9)) + 1e4  # a mean far from zero: sums of squares would lose eight digits
    moments = Moments()
    for start in range(0, 101, 7):
        moments.update(x[start : start + 7])
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance(ddof), np.cov(x.T, ddof=ddof), rtol=1e-10, atol=1e-12)


def test_shards_merge_in_any_order():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(500, 16)) * rng.uniform(0.1, 10, 16) + 50
    shards = np.split(x, [1, 2, 90, 300, 300])  # single samples and an empty one, too
    whole = Moments().update(x)
    for order in (range(6), reversed(range(6)), [3, 0, 5, 1, 4, 2]):
        merged = Moments()
        for k in order:
            merged.merge(Moments().update(shards[k]))
        assert merged.count == whole.count
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-10 * whole.scatter.max())


def test_merging_leaves_the_other_side_alone():
    x = np.random.default_rng(7).normal(size=(4, 3))
    part = Moments().update(x)
    Moments().merge(part).update(x)
    np.testing.assert_array_equal(part.mean, x.mean(0))


def test_what_can_not_be_is_said():
    with pytest.raises(InputError, match="2 videos or more, not 1"):
        Moments().update(np.ones((1, 3))).covariance()
    with pytest.raises(InputError, match="not finite"):
        Moments().update(np.array([[np.nan, 1.0]]))
    with pytest.raises(InputError, match="don't merge"):
        Moments().update(np.ones((2, 3))).merge(Moments().update(np.ones((2, 4))))
    with pytest.raises(InputError, match=r"means \(d,\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(4))
    with pytest.raises(InputError, match="finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.array([0, np.inf]), np.eye(2))
