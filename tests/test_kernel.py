"""Kernel distances, Inception score and how far a value is to be trusted, each against its definition."""

import numpy as np
import pytest
import torch

from vidm.errors import InputError
from vidm.metrics import frechet
from vidm.metrics.inception_score import checked, inception_score, load_classifier
from vidm.metrics.kernel import mmd2, over_subsets, seeded_subsets
from vidm.metrics.statistics import against_n, jackknife, spread


def by_definition(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    same = [np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    return sum(same) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_mmd_is_its_definition(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(4, 5)) + 0.5
    assert mmd2(x, y) == pytest.approx(by_definition(x, y), rel=1e-12)
    monkeypatch.setattr("vidm.metrics.kernel.BLOCK", 2)
    assert mmd2(x, y) == pytest.approx(by_definition(x, y), rel=1e-12)
    assert mmd2(x, y) == pytest.approx(mmd2(y, x), rel=1e-12)


def test_mmd_of_one_distribution_is_zero_in_the_mean_at_any_n():
    # Unbiased: unlike a Frechet distance it does not grow where clips are few.
    rng = np.random.default_rng(1)
    values = [mmd2(rng.normal(size=(10, 4)), rng.normal(size=(10, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0


def test_subsets_are_seeded_and_without_replacement():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(20, 4)) + 1
    one, two = (over_subsets(x, y, seeded_subsets(30, 20, 10, 8)) for _ in range(2))
    assert one == two and one[1] > 0
    assert all(len(set(i)) == len(set(j)) == 10 for i, j in seeded_subsets(30, 20, 10, 8))
    whole = over_subsets(x, y, seeded_subsets(30, 20, 20, 1))
    assert whole[1] == 0
    with pytest.raises(InputError, match="2 of each side"):
        mmd2(x[:1], y)
    with pytest.raises(InputError, match="features"):
        mmd2(x, y[:, :2])


def test_inception_score_of_known_chances():
    assert inception_score(np.full((40, 8), 1 / 8)) == pytest.approx((1, 0))
    balanced = np.tile(np.eye(8), (10, 1))
    assert inception_score(balanced, splits=10) == pytest.approx((8, 0))
    assert inception_score(balanced, splits=1) == pytest.approx((8, 0))
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 6)
    kl = (p * np.log(p / p.mean(0))).sum(1)
    assert inception_score(p, splits=1)[0] == pytest.approx(np.exp(kl.mean()), rel=1e-12)
    scores = [inception_score(part, splits=1)[0] for part in (p[:3], p[3:])]
    assert inception_score(p, splits=2) == pytest.approx((np.mean(scores), np.std(scores)))
    for bad in (p[:1], p * 2, p - 1, np.where(p > 0.3, np.nan, p)):
        with pytest.raises(InputError):
            inception_score(bad)


class Mean(torch.nn.Module):
    """A classifier of two classes: is it light."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        light = x.mean((1, 2, 3, 4))
        return torch.stack([light, -light], 1)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "mean.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):  # the users' files are of earlier torches
        torch.jit.script(Mean()).save(path)
    return path


def test_a_classifier_is_a_file_of_the_users(scripted, tmp_path):
    device = torch.device("cpu")
    model, digest = load_classifier(scripted, device)
    assert checked(model, scripted, torch.zeros(1, 3, 16, 8, 8)) == 2 and len(digest) == 64
    assert load_classifier(scripted, device, digest)[1] == digest
    with pytest.raises(InputError, match="it was not run"):
        load_classifier(scripted, device, "0" * 64)
    with pytest.raises(InputError, match="no other network takes its place"):
        load_classifier(tmp_path / "none.pt", device)
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(InputError, match=r"text\.pt: not a TorchScript file"):
        load_classifier(tmp_path / "text.pt", device)
    with pytest.raises(InputError, match="expected class logits"):
        checked(lambda x: x, scripted, torch.zeros(1, 3, 16, 8, 8))
    with pytest.raises(InputError, match="does not take a clip"):
        checked(lambda x: x @ torch.zeros(3, 3), scripted, torch.zeros(1, 3, 16, 8, 8))


def test_jackknife_of_a_mean_is_its_standard_error():
    # For a difference of means the jackknife is exact: the classical formula, on the means of the groups.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 1)), rng.normal(size=(40, 1)) * 3
    found = jackknife(x, y, lambda a, b: float(a.mean() - b.mean()), groups=20)
    groups = [s.reshape(2, 20).mean(0) for s in (x, y)]
    expected = np.sqrt(sum(g.var(ddof=1) / 20 for g in groups))
    assert found["standard_error"] == pytest.approx(expected, rel=1e-10)
    assert found["high"] == pytest.approx(x.mean() - y.mean() + 1.96 * expected)
    assert jackknife(x[:3], y, lambda a, b: 0.0) is None


def test_jackknife_leaves_whole_clips_away():
    # Ten windows a clip that are all alike: what varies is the mean over the clips, as if each had one window.
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 40, 1))
    clips = [np.arange(400) // 10] * 2

    def of(a, b):
        return float(a.mean() - b.mean())

    found, expected = jackknife(x.repeat(10, 0), y.repeat(10, 0), of, clips=clips), jackknife(x, y, of)
    assert found["standard_error"] == pytest.approx(expected["standard_error"], rel=1e-10)
    assert found["method"] == "jackknife over 10 groups a side, windows of a clip in one"
    assert expected == jackknife(x, y, of, clips=[range(40, 0, -1)] * 2) and "windows" not in expected["method"]
    assert jackknife(x, y, of, clips=[np.arange(40) // 14] * 2) is None


def test_the_value_against_n_shows_its_bias():
    # Two samples of one distribution: the truth is 0, and every finite N is above it.
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 400, 6))
    found = against_n(x, y, frechet.distance)
    assert found["n"] == [200, 250, 300, 350, 400] and found["linear"]
    assert found["fvd"][0] > found["fvd"][-1] > 0 and found["fvd"][-1] == pytest.approx(frechet.distance(x, y))
    assert abs(found["extrapolated"]) < found["fvd"][-1] / 2
    assert not against_n(x[:10], y[:10], frechet.distance)["linear"]
    assert against_n(x[:7], y, frechet.distance) is None
    assert found == against_n(x, y, frechet.distance)


def test_spread():
    assert spread([1.0, 3.0]) == {"values": [1.0, 3.0], "mean": 2.0, "std": pytest.approx(2**0.5)}
    assert spread([5.0])["std"] == 0
