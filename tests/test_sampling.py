"""The rollout against a naive loop, what is kept and for how long, and noise by address."""

import re
import time
from collections import Counter

import numpy as np
import pytest
import torch
from test_models import FRAMES, SIZE, SMALL, awake
from torch.testing import assert_close

from vidm.config import Content, Diffusion, Motion, Sampling
from vidm.diffusion.samplers import Sampler
from vidm.models import trained
from vidm.models.posgn import PosGN, Tables, Where
from vidm.sampling.clock import Clock
from vidm.sampling.conditions import positions
from vidm.sampling.noise import Drawn, VideoNoise, label_of
from vidm.sampling.rollout import Rollout

FACTS = Sampling(sampler="ddim", eta=0.5, steps=3, content_steps=2, precision="fp32", noise_correlation=0.9)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs/ is made in it


def made(classes=0, variance="fixed-small", facts=FACTS, cache=None, beyond=None, **switches):
    torch.manual_seed(0)
    v = Diffusion(prediction="v", variance=variance)
    content_facts, motion_facts = Content(network=SMALL, diffusion=v), Motion(network=SMALL, diffusion=v, **switches)
    networks = [
        awake(trained.build(part, facts, SIZE, FRAMES, classes))
        for part, facts in (("content", content_facts), ("motion", motion_facts))
    ]
    return Rollout(*networks, facts, torch.device("cpu"), cache, beyond)


def noises(videos, content_of=None):
    return [VideoNoise(0, k, SIZE, 0.9, content_of) for k in videos]


@pytest.fixture(scope="module")
def rollout():
    return made()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"posgn": False},
        {"residual": "output"},
        {"residual": "none"},
        {"residual": "features-n", "spynet_range": "signed", "variance": "learned-range"},
        {"classes": 3},
    ],
)
@torch.no_grad()
def test_caches_change_nothing(form):
    """Algorithm 2 written out: everything again at every step of every frame, for each video alone."""
    rollout = made(**form)
    labels = [2, 1] if "classes" in form else None
    fast = rollout.videos(noises(range(2)), 4, labels)
    # Two batches that share tables, with features made again each time, and kept.
    for cache in (0, rollout.cache):
        again = made(facts=FACTS.model_copy(update={"batch": 1}), cache=cache, **form)
        assert np.abs(again.videos(noises(range(2)), 4, labels).astype(int) - fast).max() <= 1
    v = Diffusion(prediction="v", variance=form.get("variance", "fixed-small"))
    for k in range(2):
        noise, label = VideoNoise(0, k, SIZE, 0.9), [torch.tensor([labels[k]])] if labels else []
        sampler = Sampler(v, "ddim", 2, 0.5, True)
        first = sampler(
            lambda x, t, label=label: rollout.content(x, t, *label), torch.from_numpy(noise.content(2))[None]
        )
        sampler, frames = Sampler(v, "ddim", 3, 0.5, True), [first]
        for n in range(1, 4):

            def predict(x, t, n=n, first=first, prev=frames[-1], label=label):
                return rollout.motion(x, t, torch.tensor([n]), first, prev, *label)

            frames.append(sampler(predict, torch.from_numpy(noise.motion(n, 3))[None]))
        slow = ((torch.cat(frames).permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
        assert np.abs(fast[k] - slow).max() <= 1  # grey levels
        assert np.abs(fast[k] - slow).mean() < 0.01
        assert slow.std() > 5


@pytest.mark.parametrize(
    "form, cache, spynet, encoder",
    [({}, None, 3, 3 * 2), ({}, 0, 3, 3 * 3 * 2), ({"residual": "features-n"}, None, 3, 3 * 3 * 2)],
)
def test_each_part_runs_no_more_often_than_its_inputs_change(form, cache, spynet, encoder):
    """Frames 1 to 3, three steps each, two batches of one video."""
    rollout = made(facts=FACTS.model_copy(update={"batch": 1}), cache=cache, **form)
    calls = Counter()
    network = rollout.motion
    norms = [m for m in network.unet.modules() if isinstance(m, PosGN)]
    for name, module in (("spynet", network.spynet), ("encoder", network.residual), ("unet", network.unet)):
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    for norm in norms:
        norm.first.register_forward_hook(lambda *_: calls.update(["first"]))
        norm.third.register_forward_hook(lambda *_: calls.update(["coordinates"]))
    rollout.videos(noises(range(2)), 4)
    assert calls == {"spynet": 2 * spynet, "encoder": encoder, "unet": 2 * 9, "coordinates": 9 * len(norms)}


def test_a_budget_keeps_what_fits_and_says_so():
    rollout = made(cache=10**9)
    rollout.videos(noises(range(2)), 3)
    share, size = re.search(r"(\d of \d) kept, ([\d.]+ GB) within 1.00 GB", rollout.report).groups()
    assert share == "3 of 3" and size == "0.00 GB"
    one = sum(r.nbytes for r in rollout.motion.residual_of(torch.zeros(2, 3, SIZE, SIZE), *torch.zeros(2, 1)))
    rollout = made(cache=2 * one)
    rollout.videos(noises(range(2)), 3)
    assert "2 of 3 kept" in rollout.report


def test_a_table_is_the_norm_without_it():
    """And it is of one place: another size gets its own."""
    norm, tables = PosGN(32, 8, 1000, 16, classes=3), Tables()
    torch.nn.init.normal_(norm.label.weight)
    t, n, label = torch.tensor([500]), torch.tensor([3]), torch.tensor([2, 1])
    for side in (4, 6):
        x = torch.randn(2, 32, side, side)
        for _ in range(2):
            assert_close(norm(x, Where(t, n, label, tables)), norm(x, (t, n, label)), rtol=0, atol=1e-6)
    assert len(tables.made) == 2


def test_frames_beyond_the_grid_are_a_choice():
    assert positions(4, 4, None) == [0, 1, 2, 3]
    assert positions(3, 4, "stretch") == [0, 1, 2]
    assert positions(7, 4, "clamp") == [0, 1, 2, 3, 3, 3, 3]
    assert positions(7, 4, "stretch") == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    with pytest.raises(ValueError, match="clamp or stretch"):
        positions(7, 4, None)
    ends = [made(beyond=beyond).videos(noises(range(1)), FRAMES + 2)[0] for beyond in ("clamp", "stretch")]
    assert np.array_equal(ends[0][0], ends[1][0])
    assert not np.array_equal(ends[0][-1], ends[1][-1])


def test_one_content_several_motions(rollout):
    one, other, alone = rollout.videos([*noises([4]), *noises([5], content_of=4), *noises([5])], 3)
    assert np.array_equal(one[0], other[0]) and not np.array_equal(one[0], alone[0])
    assert not np.array_equal(one[1], other[1])


def test_given_frames_go_on_as_generated_ones_do(rollout):
    """What a video goes on with are grey levels, where the rollout has floats: near, not equal."""
    whole = rollout.videos(noises(range(2)), 4)
    for given in (1, 3):
        more = rollout.videos(noises(range(2)), 4, given=whole[:, :given])
        assert np.array_equal(more[:, :given], whole[:, :given])
        assert np.abs(more[:, given:].astype(int) - whole[:, given:]).mean() < 1
    assert np.abs(whole[0].astype(int) - whole[1]).mean() > 10


@pytest.mark.parametrize("sampler", ["ddpm", "dpm-solver++", "sde-dpm-solver++", "unipc"])
def test_every_sampler_makes_the_same_videos_alone_and_together(sampler):
    facts = FACTS.model_copy(update={"sampler": sampler, "batch": 1})
    together = made(facts=facts).videos(noises(range(2)), 3)
    alone = made(facts=facts).videos(noises(range(1, 2)), 3)
    assert np.array_equal(together[1], alone[0])
    assert together.std() > 5


def test_the_first_frame_may_have_a_sampler_of_its_own():
    facts = FACTS.model_copy(update={"sampler": "unipc"})
    mixed = made(facts=facts.model_copy(update={"content_sampler": "ddpm"})).videos(noises(range(2)), 3)
    first = made(facts=facts.model_copy(update={"sampler": "ddpm"})).videos(noises(range(2)), 2)
    assert np.array_equal(mixed[:, 0], first[:, 0])
    rest = made(facts=facts).videos(noises(range(2)), 3, given=first[:, :1])
    assert np.abs(mixed.astype(int) - rest).mean() < 1  # given frames are grey levels


def test_networks_compile_as_one_graph():
    """What `compile: true` asks for, without the compiler behind it: no break, the same numbers."""
    motion = made().motion
    compiled = torch.compile(motion.predict, backend="eager", fullgraph=True, dynamic=False)
    x, z, one = torch.randn(2, 3, SIZE, SIZE), torch.randn(2, 2, SIZE, SIZE), torch.ones(1)
    with torch.inference_mode():
        r = motion.residual_of(x, one, one)
        assert_close(compiled(x, one, one, z, r), motion.predict(x, one, one, z, r), rtol=0, atol=1e-5)


def test_the_clock_counts_every_part_once():
    clock = Clock(torch.device("cpu"))
    began = time.perf_counter()
    with clock("unet"):
        time.sleep(0.05)
        with clock("coordinates"):
            time.sleep(0.1)
    whole = time.perf_counter() - began
    assert 0.04 < clock.seconds["unet"] < 0.1 <= clock.seconds["coordinates"]
    assert sum(clock.seconds.values()) == pytest.approx(whole, abs=0.01)
    assert re.search(r"coordinates +0\.1. s .*\nscheduler", clock.table(whole))


def test_noise_depends_on_its_address_alone():
    a, b = VideoNoise(3, 5, 8, 0.9), VideoNoise(3, 5, 8, 0.9)
    late = b.motion(7, 2)
    assert np.array_equal(a.content(1), b.content(1))
    assert np.array_equal(a.motion(7, 2), late)
    others = [
        VideoNoise(3, 5, 8, 0.9).motion(6, 2),
        VideoNoise(3, 6, 8, 0.9).motion(7, 2),
        VideoNoise(4, 5, 8, 0.9).motion(7, 2),
    ]
    assert not any(np.array_equal(late[1:], other[1:]) for other in others)
    streams = [VideoNoise(s, v, 8, 0.0).motion(n, 0) for s in (0, 1) for v in (0, 1) for n in (0, 1)]
    shared = VideoNoise(3, 6, 8, 0.9, content_of=5)
    assert np.array_equal(a.content(1), shared.content(1)) and not np.array_equal(a.motion(7, 2), shared.motion(7, 2))
    assert len({x.tobytes() for x in streams}) == 8  # zeros in an address collide with nothing


def test_noise_drawn_ahead_is_the_same():
    """As beside a GPU: by threads, in any order, asked for or not."""
    videos = [VideoNoise(3, k, 8, 0.5) for k in range(3)]
    for device in ("cpu", "meta"):
        drawn = Drawn(torch.device(device))
        drawn.begin(videos, 2, 4)
        drawn.begin(videos[1:], 1, 4)
        for n in (1, 2, 3):
            for video, noise in zip(videos, drawn.motion(videos, n, 4), strict=True):
                assert np.array_equal(noise, video.motion(n, 4))
        assert not drawn.ahead


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_stays_standard_normal_with_the_stated_correlation(correlation):
    noise = VideoNoise(0, 0, 128, correlation)
    a, b = noise.motion(1, 0)[0].ravel(), noise.motion(2, 0)[0].ravel()
    assert abs(a.mean()) < 0.02 and abs(a.std() - 1) < 0.01
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(correlation, abs=0.02)


def test_batches_do_not_matter(rollout):
    together = rollout.videos(noises(range(4)), 3)
    alone = rollout.videos(noises(range(2, 3)), 3)[0]
    assert np.abs(together[2].astype(int) - alone).max() <= 1


def test_labels_are_drawn_as_often_as_the_clips_have_them():
    labels = [label_of(0, k, [30, 0, 10]) for k in range(2000)]
    assert labels == [label_of(0, k, [30, 0, 10]) for k in range(2000)]
    assert labels.count(1) == 0
    assert labels.count(0) / 2000 == pytest.approx(0.75, abs=0.03)
