"""Pairs with known flow, and a SpyNet trained on them: the truth is true, a run goes on, comparisons compare."""

import os
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator
from torch.nn import functional as F
from torch.testing import assert_close

from vidm import machine
from vidm.data import pairs, textures
from vidm.data.pairs import Sky, batch
from vidm.data.textures import Pairs
from vidm.errors import Interrupted
from vidm.metrics import flow as judge
from vidm.models.spynet import LEVELS, SpyNet, endpoint_error, warp
from vidm.training import flow
from vidm.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def sky():
    return Sky(4)


def drawn(count=6, size=64, seed=0):
    """Moving textures without light or noise."""
    rng = Generator().manual_seed(seed)
    canvas, over = textures.textures(rng, 2 * count, max(40, size * 3 // 2)).chunk(2)
    return textures.moving(rng, size, canvas, over)


def inside(made, margin=2):
    """Where a pixel's truth lies within the picture, and its neighbours move alike: nothing gets covered there."""
    height, width = made.flow.shape[-2:]
    x, y = torch.arange(width) + made.flow[:, :1], torch.arange(height)[:, None] + made.flow[:, 1:]
    seen = (x >= margin) & (x <= width - 1 - margin) & (y >= margin) & (y <= height - 1 - margin)
    spread = F.max_pool2d(made.flow, 5, 1, 2) + F.max_pool2d(-made.flow, 5, 1, 2)
    return (seen & (spread.amax(1, keepdim=True) < 1)).float()


def error(by, made, where):
    return float(((warp(made.supporting, by) - made.reference).abs() * where).sum())


def test_warping_by_the_truth_explains_the_pair():
    made = drawn(count=16)
    where = inside(made)
    assert where.mean() > 0.4
    true, still, wrong = (error(s * made.flow, made, where) for s in (1, 0, -1))
    assert true < 0.35 * still < still < wrong


def test_turning_a_pair_turns_its_flow():
    made = drawn()
    where = inside(made)
    for chosen in np.ndindex(2, 2, 2):
        rows = [pairs._turned(*row, *map(bool, chosen)) for row in zip(*made, strict=True)]
        turned = Pairs(*(torch.stack(column) for column in zip(*rows, strict=True)))
        assert_close(error(turned.flow, turned, inside(turned)), error(made.flow, made, where), rtol=1e-3, atol=1e-3)


def test_a_batch_is_a_function_of_its_address(sky):
    one, again, other = batch(sky, 3, 7, 5, 32), batch(sky, 3, 7, 5, 32), batch(sky, 3, 8, 5, 32)
    for a, b in zip(one, again, strict=True):
        assert_close(a, b, rtol=0, atol=0)
    assert (one.reference - other.reference).abs().mean() > 0.02
    for size in (1, 2, 16, 96, 128, 256):
        made = batch(sky, 0, 0, 3, size)
        assert made.flow.shape == (3, 2, size, size) and made.reference.shape == (3, 3, size, size)
        assert all(bool(v.isfinite().all()) for v in made)
        assert made.reference.min() >= 0 and made.supporting.max() <= 1 and made.weight.min() > 0


def test_the_embedded_sky_keeps_its_truth_when_it_is_cut_and_averaged(sky):
    for size in (128, 64, 32):
        made = sky.pairs(Generator().manual_seed(0), 12, size)
        where = (made.weight > 0.5) * inside(made)
        assert error(made.flow, made, where) < 0.6 * error(0 * made.flow, made, where)


def test_the_loss_is_the_sum_of_each_levels_error_in_its_own_pixels():
    truth = torch.empty(2, 2, 32, 32)
    truth[:, 0], truth[:, 1] = 8, -4
    made = Pairs(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), truth, torch.ones(2, 1, 32, 32))
    exact = [F.avg_pool2d(truth, 2**k) / 2**k for k in range(3)][::-1]
    assert float(flow.level_loss(exact, made)) == 0
    off = [f + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1) for f in exact]
    assert_close(flow.level_loss(off, made), torch.tensor(15.0))


def test_the_photometric_loss_is_what_the_flow_leaves_of_the_difference():
    """Whole pixels of a shift are found again at each level; a wrong flow leaves more than none."""
    torch.manual_seed(0)
    wide = F.interpolate(torch.rand(2, 3, 12, 12), size=(96, 96), mode="bicubic")
    flows, references, supportings = [], [], []
    for level in (1, 0):
        picture, by = F.avg_pool2d(wide, 2**level), 4 >> level
        side = 64 >> level
        references.append(picture[..., :side, by : by + side])
        supportings.append(picture[..., :side, :side])
        flows.append(torch.tensor([float(by), 0.0]).view(1, 2, 1, 1).expand(2, 2, side, side))

    def loss(sign):
        inner = [v[..., 8:-8, 8:-8] for f, a, b in zip(flows, references, supportings, strict=True) for v in (f, a, b)]
        return float(flow.photometric_loss([sign * f for f in inner[::3]], inner[1::3], inner[2::3]))

    assert loss(1) < 0.2 * loss(0) < 0.2 * loss(-1)
    exact = [torch.zeros_like(f) for f in flows]
    assert flow.photometric_loss(exact, references, references) == pytest.approx(2 * flow.SOFT)


def test_what_changes_beside_motion_weighs_less(sky):
    made = drawn(count=64, size=32)
    rng = Generator().manual_seed(0)
    other = pairs.changed(rng, made)
    same = (other.reference == made.reference).all(1, keepdim=True)
    assert (other.weight[same] > 0.99).all() and (other.weight[~same] < 1).any()
    touched = (other.weight < 0.9).flatten(1).any(1).float().mean()
    assert 0.1 < touched < 0.6
    for kept in ("supporting", "flow"):
        assert_close(getattr(other, kept), getattr(made, kept), rtol=0, atol=0)


def test_errors_count_by_their_weight():
    truth, found, weight = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    found[0, 0, 0, 0], found[0, 1, 1, 1] = 3, 100
    weight[0, 0, 0] = 1
    assert_close(endpoint_error(found, truth, weight), torch.tensor(1.5))


def test_the_schedule():
    levels = [flow.level_at(share / 100) for share in range(101)]
    assert levels == sorted(levels) and levels[-1] == LEVELS - 1
    for level in set(levels):
        assert all(side % 2**level == 0 or level < LEVELS - 1 for side in flow.sides(level))
    rates = [flow.rate_at(share / 100, 10**6) for share in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == flow.RATE and rates[-1] == pytest.approx(flow.LAST * flow.RATE)
    assert flow.rate_at(0, 0) < flow.RATE / 10
    assert flow.photometric_at(flow.FROM) == 0 < flow.photometric_at(0.75) < flow.photometric_at(1) == flow.PHOTOMETRIC
    for finest in (3, 4, 5):
        assert {flow.level_of(0, step, finest) for step in range(50)} == set(range(3, finest + 1))


def test_levels_of_a_coarse_picture_are_those_of_the_whole():
    """The coarsest levels on an averaged picture find what they find in the pyramid of the whole."""
    torch.manual_seed(0)
    network, whole = SpyNet(), torch.rand(2, 1, 3, 64, 64)
    coarse = [F.avg_pool2d(image, 4) for image in whole]
    for a, b in zip(network.flows(*whole), network.flows(*coarse, levels=4), strict=False):
        assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert_close(network(*whole), network.flows(*whole)[-1])


def test_a_run_that_is_stopped_goes_on_and_its_weights_are_of_use(tmp_path, capfd):
    out, runs = tmp_path / "spynet.safetensors", tmp_path / "runs"
    threading.Timer(8, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match=r"SIGTERM at step \d+; saved"):
        flow.train(flow.Plan(minutes=60, scenes=2, pixels=1024), out, runs)
    network = judge.network(out, torch.device("cpu"))
    # No level is as it was made: those that had no turn are copies.
    assert_close(network.levels[5].state_dict(), network.levels[3].state_dict())
    folder = flow.run_folder(runs, flow.Plan(60, scenes=2, pixels=1024))
    step, first = Checkpoints(folder, keep=2).newest(sys.maxsize)
    capfd.readouterr()
    # The budget is of all that was spent: how much that is depends on the machine.
    minutes = (float(first["loop/seconds"]) + 4) / 60
    said = flow.train(flow.Plan(minutes, scenes=2, pixels=1024, checkpoint_minutes=60), out, runs)
    assert f"goes on at step {step}" in capfd.readouterr().err and "steps" in said
    assert all(p.isfinite().all() for p in judge.network(out, torch.device("cpu")).parameters())
    last, then = Checkpoints(folder, keep=2).newest(sys.maxsize)
    weight = "model/levels.3.convs.0.weight"
    assert last > step and (then[weight] - first[weight]).abs().max() > 0


def test_another_seed_or_size_is_another_run(vidm, tmp_path):
    """And more or fewer minutes are the same one."""
    changes = ({}, {"seed": 1}, {"scenes": 8}, {"pixels": 4096}, {"precision": "fp32"}, {"minutes": 2})
    first, *others, same = (flow.run_folder(tmp_path, replace(flow.Plan(1), **change)) for change in changes)
    assert same == first and len({first, *others}) == 5
    made = []
    for seed in (0, 1):
        out, runs = tmp_path / f"{seed}.safetensors", tmp_path / "runs"
        command = ("train", "spynet", "--minutes", 0.01, "--scenes", 1, "--pixels", 256, "--seed", seed)
        ended = vidm(*command, "--out", out, "--runs", runs)
        assert ended.returncode == 0 and "goes on" not in ended.stderr, ended.stderr
        made.append(judge.network(out, torch.device("cpu")))
    assert not torch.equal(*(network.levels[0].convs[0].weight for network in made))


def test_training_learns_a_motion():
    """Some steps of one level on small pictures: better than no flow at all, which random layers stay at."""
    torch.manual_seed(0)
    network = SpyNet().to(memory_format=torch.channels_last)
    for level in network.levels:
        flow.start(level)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ratios = []
    for step in range(90):
        made = drawn(32, 16, seed=step)
        optimizer.param_groups[0]["lr"] = flow.rate_at(0, 2 * step)
        with machine.autocast(torch.device("cpu"), "bf16"):  # as training: a CPU without AVX-512 only imitates it
            flows = network.flows(made.reference, made.supporting, 1)
        loss = flow.level_loss(flows, made)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ratios.append(float(loss.detach() / flow.level_loss([0 * f.detach() for f in flows], made)))
    assert np.mean(ratios[-20:]) < 0.92 < 0.97 < np.mean(ratios[:5])


def test_the_comparison_sets_weights_beside_zero_flow(vidm, tmp_path, shared):
    torch.manual_seed(0)
    flow.export(SpyNet(), tmp_path / "mine.safetensors", {})
    pairs, dropped = judge.real_pairs(shared / "data" / "sky", 0, 8)
    assert {pair.shape for pair in pairs} == {(2, 3, 128, 128)} and not dropped
    one, other = torch.stack(pairs, dim=1)
    assert_close(judge.photometric(judge.still(one, other), one, other), 255 * float((one - other).abs().mean()))
    table = judge.compare({"mine": tmp_path / "mine.safetensors"}, None, (0, 1), [32], 2)
    head, *rows = table.splitlines()
    assert head.split() == ["zero", "flow", "mine"] and len(rows) == len(judge.STEPS)
    distances = [float(row.split()[-2]) for row in rows]
    assert distances == sorted(distances) and distances[0] > 0.3
    ended = vidm("weights", "compare-spynet", tmp_path / "none.safetensors")
    assert ended.returncode == 2 and "none.safetensors: no such file" in ended.stderr


def test_real_clips_of_any_size_are_compared_and_what_is_dropped_is_said(tmp_path):
    """Of most clips' size or not, they are scaled to one."""
    folder = tmp_path / "real"
    rng = np.random.default_rng(0)
    for name, shape in {"a": (16, 16), "b": (16, 16), "c": (32, 32), "d": (24, 40)}.items():
        (folder / name).mkdir(parents=True)
        for n in range(3):
            Image.fromarray(rng.integers(256, size=(*shape, 3), dtype=np.uint8)).save(folder / name / f"{n}.png")
    (folder / "short").mkdir()
    for n in range(2):
        Image.new("RGB", (16, 16)).save(folder / "short" / f"{n}.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    pairs, _ = judge.real_pairs(folder, 0, 2)
    assert sorted(pair.shape[-2:] for pair in pairs) == [(16, 16), (16, 16), (24, 24), (32, 32)]
    with Image.open(folder / "d" / "0.png") as image:
        centre = np.asarray(image)[:, 8:32] / 255
    assert_close(pairs[-1][0].permute(1, 2, 0), torch.from_numpy(centre).float())
    table = judge.compare({}, folder, (0, 2), [16], 1)
    assert "4 real clips, 16 px" in table
    notes = [line for line in table.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and notes[-1] == f"note: 1 of {folder} dropped: fewer than 3 frames"
