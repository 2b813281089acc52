"""Pictures: the flow's colours against their published definition, components against the covariance, files."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vidm import plotting
from vidm.data.clips import scaled
from vidm.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_style():
    with plt.rc_context(), plt.ioff():
        plt.switch_backend("agg")
        plotting.use_style()
        yield
        plt.close("all")


def wheel() -> np.ndarray:
    """The table of Baker et al. (2011): 55 colours in six ramps, (55, 3) in 0..255."""
    rows = []
    for up, full, count in ((1, 0, 15), (None, 1, 6), (2, 1, 4), (None, 2, 11), (0, 2, 13), (None, 0, 6)):
        for k in range(count):
            colour = [0.0, 0.0, 0.0]
            colour[full] = 255.0
            if up is not None:
                colour[up] = 255.0 * k / count
            else:
                colour[(full - 1) % 3] = 255.0 - 255.0 * k / count
            rows.append(colour)
    return np.array(rows)


def published(u: float, v: float) -> np.ndarray:
    """The colour of one flow of at most length 1, by the published code's steps."""
    table = wheel()
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(table) - 1)
    below = int(np.floor(place))
    above = (below + 1) % len(table)
    colour = (1 - (place - below)) * table[below] / 255 + (place - below) * table[above] / 255
    return 1 - np.hypot(u, v) * (1 - colour)


def test_flow_colours_are_the_published_ones():
    angles, lengths = np.linspace(0, 2 * np.pi, 73), np.linspace(0, 1, 5)
    u, v = (np.outer(f(angles), lengths) for f in (np.cos, np.sin))
    expected = np.array([[published(a, b) for a, b in zip(*row, strict=True)] for row in zip(u, v, strict=True)])
    np.testing.assert_allclose(plotting.flow_image(np.stack([u, v]), largest=1), expected, atol=1e-12)


def test_flow_colours_one_by_one():
    flow = np.array([[[0.0, 3, -3, 0, 1.5, 6]], [[0.0, 0, 0, 3, 0, 0]]])
    white, right, left, down, half, long = plotting.flow_image(flow, largest=3)[0]
    assert white.tolist() == [1, 1, 1]
    assert right.tolist() == [1, 0, 0]
    assert left[0] == 0 and left[2] == 1, "cyan to blue"
    assert down[0] == 1 and 0.8 < down[1] < 1 and down[2] == 0, "nearly yellow"
    assert half.tolist() == [1, 0.5, 0.5]
    assert long.tolist() == [0.75, 0, 0], "longer than the largest: darker"


def test_flow_of_nothing_is_white():
    assert (plotting.flow_image(np.zeros((2, 4, 5))) == 1).all()


def test_pixels_undo_scaled():
    frames = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(plotting.pixels(scaled(frames)), frames)
    np.testing.assert_array_equal(plotting.pixels(torch.from_numpy(scaled(frames)).requires_grad_()), frames)
    assert plotting.pixels(np.full((3, 1, 1), 7.0)).max() == 255


def test_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 5
    found, shares = plotting.principal(points, 3)
    values = np.sort(np.linalg.eigvalsh(np.cov(points.T, bias=True)))[::-1]
    np.testing.assert_allclose(found.var(0), values[:3], rtol=1e-10)
    np.testing.assert_allclose(shares, values[:3] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(plotting.principal(points[::-1], 3)[0][::-1], found, atol=1e-9)
    assert plotting.principal(np.ones((4, 3)))[1].tolist() == [0, 0]


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(plotting.smoothed(np.full(9, 2.0), 5), 2)
    np.testing.assert_allclose(plotting.smoothed(np.arange(9.0), 3)[1:-1], np.arange(1, 8))
    assert len(plotting.smoothed(np.arange(3.0), 11)) == 3


def test_the_same_figure_gives_the_same_files(tmp_path):
    for name in ("one", "two"):
        frames = np.random.default_rng(1).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)
        plotting.save(plotting.strips({"a": frames, "b": frames[:2]}), tmp_path / name, "strip")
    for kind in ("png", "svg"):
        one, two = (tmp_path / name / f"strip.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["strip.png", "strip.svg"]
    assert "<text" in (tmp_path / "one/strip.svg").read_text(encoding="utf-8"), "text stays text"


def test_what_is_missing_is_named_with_its_command(tmp_path):
    (tmp_path / "there").touch()
    assert plotting.require(tmp_path, "there") == [tmp_path / "there"]
    with pytest.raises(plotting.Missing) as raised:
        plotting.require(tmp_path, "there", "results/a_fvd.json", "models/a/b")
    lines = raised.value._render_traceback_()
    assert lines[0] == ("results/a_fvd.json is not there yet; make it: snakemake --cores all results/a_fvd.json")
    assert len(lines) == 2


def test_what_is_no_loss_curve_is_named(tmp_path):
    path = tmp_path / "content_loss.csv"
    path.write_text("step,samples,loss,lr\n10,160,0.5,0.1\n", encoding="utf-8")
    assert plotting.read_curve(path)["loss"].tolist() == [0.5]
    for text in ("step,loss\n1,2\n", "step,samples,loss,lr\n10,160\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=re.escape(str(path))):
            plotting.read_curve(path)


def test_it_needs_neither_workflow_nor_notebooks():
    absent = ["dvc", "snakemake", "papermill", "IPython", "av", "ffmpeg", "xarray", "torch", "pandas", "scipy"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\nimport vidm.plotting"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
