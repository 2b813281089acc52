"""The loop against hand-made truth, and training runs that must repeat themselves."""

import csv
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_resume import same
from torch import nn
from torch.testing import assert_close

from vidm import config, weights
from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.models import pretrained, trained
from vidm.models.spynet import SpyNet
from vidm.training import content, motion
from vidm.training.loop import due
from vidm.training.optimisation import ema_model, learning_rate, optimizer_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs/ is made in it


def test_ema_is_the_formula():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    ema, expected = ema_model(model, 0.9), torch.zeros(1, 2)
    for k in range(200):
        with torch.no_grad():
            model.weight.fill_(k)
        ema.update_parameters(model)
        decay = min(0.9, (1 + k) / (10 + k)) if k else 0.0  # the first update copies
        expected = decay * expected + (1 - decay) * k
    assert_close(ema.module.weight.detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_official_average_has_no_warm_up():
    """0.999 from the first update on, as the official code has it."""
    facts = config.load(ROOT / "params.yaml").experiment("clevrer256-official")
    assert (facts.motion.training.ema, facts.motion.training.ema_warmup) == (0.999, False)
    assert (facts.content.training.ema, facts.content.training.ema_warmup) == (0.9999, True)
    model = nn.Linear(1, 1, bias=False)
    ema = ema_model(model, 0.999, warmup=False)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
    expected = 0.999 * (0.999 * 1 + 0.001 * 2) + 0.001 * 3
    assert_close(ema.module.weight.detach(), torch.full((1, 1), expected))


def test_a_switch_that_came_later_leaves_older_runs_as_they_are():
    assert "ema_warmup" not in config.Training().model_dump(mode="json")
    assert config.Training(ema_warmup=False).model_dump(mode="json")["ema_warmup"] is False


def test_one_kernel_for_the_step_where_the_device_has_one():
    assert optimizer_of(nn.Linear(2, 2), config.Training()).defaults["fused"] is True
    # `meta` has no such kernel, as some accelerators haven't.
    other = optimizer_of(nn.Linear(2, 2, device="meta"), config.Training())
    assert not other.defaults["fused"]


def test_learning_rate():
    facts = config.Training(steps=100, warmup=10, lr=1.0, decay="cosine")
    rates = [learning_rate(facts, s) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert learning_rate(config.Training(lr=1.0), 9999) == 1.0


def test_no_weight_decay_on_the_constant(params):
    network = trained.build("content", params.experiment("dots").content, 16, 4)
    groups = optimizer_of(network, config.Training()).param_groups
    assert [p is network.constant for p in groups[1]["params"]] == [True]
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.01, 0.0)
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


@pytest.mark.parametrize("train, part", [(content.train, "content"), (motion.train, "motion")])
def test_training_repeats_itself(train, part, params, store, tmp_path):
    files = [tmp_path / str(k) / f"{part}.safetensors" for k in range(2)]
    for file in files:
        train(params, "dots", store, file, file.parent / "runs")
    assert files[0].read_bytes() == files[1].read_bytes()
    network, notes = trained.load(files[0], part, torch.device("cpu"))
    assert notes["step"] == 3 and notes["size"] == 16 and notes["frames"] == 4
    assert any(p.any() for p in network.unet.conv_out.parameters())  # it started at zero
    with files[0].with_name(f"{part}_loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "3" and rows[-1]["samples"] == "6"
    assert 0.3 < float(rows[-1]["loss"]) < 1.5  # E|N(0, 1)| = 0.8 at the start


def test_snapshots_along_the_way(params, store, tmp_path):
    """Whole files of weights, evenly spaced, the last one with the weights of the end; the run is the same."""
    train, runs = content.train, tmp_path / "runs"
    train(params, "dots", store, tmp_path / "plain.safetensors", tmp_path / "others")
    facts = params.experiment("dots")
    facts = facts.model_copy(update={"running": config.Running(snapshots=2)})
    train(params.model_copy(update={"experiments": {"dots": facts}}), "dots", store, tmp_path / "out.safetensors", runs)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    first, last = sorted(runs.rglob("snapshots/*.safetensors"))
    found = [trained.load(path, "content", torch.device("cpu"))[1] for path in (first, last)]
    assert [(notes["step"], notes["samples"]) for notes in found] == [(2, 4), (3, 6)]
    assert 0 < found[0]["device_hours"] <= found[1]["device_hours"]
    end = load_file(tmp_path / "out.safetensors")
    assert_close(load_file(last), end, rtol=0, atol=0)
    assert not torch.equal(load_file(first)["constant"], end["constant"])
    assert [s for s in range(1, 11) if due(s, 4, 10)] == [3, 5, 8, 10] and not any(due(s, 0, 10) for s in range(1, 11))


def test_a_store_that_does_not_fit_is_named(params, store, tmp_path):
    with StoreWriter(tmp_path / "short.h5", 16, 16, {}, origin="raw") as writer:
        writer.add(np.zeros((3, 16, 16, 3), np.uint8), fps=25, split="train", source="a")
    with StoreWriter(tmp_path / "large.h5", 32, 32, {}, origin="raw") as writer:
        writer.add(np.zeros((9, 32, 32, 3), np.uint8), fps=25, split="train", source="a")
    for name, words in (("short", "no train clip has the 4 frames"), ("large", "32 pixels")):
        with pytest.raises(InputError, match=words):
            content.train(params, "dots", tmp_path / f"{name}.h5", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_spynet_of_ones_own(params, store, tmp_path, monkeypatch):
    """A port's file is read; what is not a SpyNet is named, and nothing is trained on it."""
    torch.manual_seed(0)
    state = {f"netBasic.{k.split('.', 1)[1]}": v for k, v in SpyNet().state_dict().items()}
    port = {
        f"netBasic.{level}.netBasic.{2 * int(i)}.{kind}": v
        for (_, level, _, i, kind), v in ((k.split("."), v) for k, v in state.items())
    }
    monkeypatch.chdir(tmp_path)
    torch.save(port, tmp_path / "network-mine.pytorch")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    facts = params.experiment("dots")
    own = facts.motion.model_copy(update={"spynet": "network-mine.pytorch"})
    params = params.model_copy(update={"experiments": {"dots": facts.model_copy(update={"motion": own})}})
    motion.train(params, "dots", store, tmp_path / "m.safetensors")
    _, notes = trained.load(tmp_path / "m.safetensors", "motion", torch.device("cpu"))
    assert notes["spynet_sha256"] == trained.file_sha256(tmp_path / "network-mine.pytorch")
    with pytest.raises(InputError, match=r"other\.pth: not the weights of a six-level SpyNet"):
        motion.train(params, "dots", store, tmp_path / "n.safetensors", spynet=tmp_path / "other.pth")
    assert not (tmp_path / "n.safetensors").exists()


def test_a_spynet_that_stays_as_it_is(params, store, tmp_path):
    """Not fine-tuned it is the shipped one after training, and packed weights leave it out and find it again."""
    facts = params.experiment("dots")
    fixed = facts.motion.model_copy(update={"spynet": "procedural", "spynet_finetuned": False})
    params = params.model_copy(update={"experiments": {"dots": facts.model_copy(update={"motion": fixed})}})
    models, packed = tmp_path / "models", tmp_path / "packed"
    content.train(params, "dots", store, models / "content.safetensors", tmp_path / "runs")
    motion.train(params, "dots", store, models / "motion.safetensors", tmp_path / "runs")
    whole, _ = trained.load(models / "motion.safetensors", "motion", torch.device("cpu"))
    shipped = SpyNet()
    shipped.load_pretrained(weights.load("spynet-procedural")[0])
    assert_close(whole.spynet.state_dict(), shipped.state_dict(), rtol=0, atol=0)

    pretrained.pack(params, "dots", models, None, packed)
    path = pretrained.find("packed", packed).path("motion")
    with safe_open(path, "pt") as file:
        assert not [key for key in file.keys() if key.startswith("spynet")]  # noqa: SIM118
    found, notes = trained.load(path, "motion", torch.device("cpu"))
    assert_close(found.spynet.state_dict(), shipped.state_dict(), rtol=0, atol=0)

    other = tmp_path / "other.safetensors"
    save_file(load_file(path), other, metadata={trained.KEY: json.dumps(notes | {"spynet_sha256": "0" * 64})})
    with pytest.raises(InputError, match="lacks its SpyNet, and this version of vidm has another"):
        trained.load(other, "motion", torch.device("cpu"))


def test_other_labels_train_anew(params, tmp_path):
    """Exchanged class folders: the clips, and how many each class has, are the same."""
    e = params.experiment("dots").model_copy(update={"class_conditioning": True})
    facts = params.model_copy(update={"experiments": {"dots": e}})
    clips = np.random.default_rng(0).integers(256, size=(4, 6, 16, 16, 3), dtype=np.uint8)
    made = []
    for k, classes in enumerate(("aabb", "bbaa", "aabb")):
        with StoreWriter(tmp_path / "dots.h5", 16, 16, {}, origin="raw") as writer:
            for clip, name in zip(clips, classes, strict=True):
                writer.add(clip, fps=25, split="train", source=f"{name}/{k}", cls=name)
        out = tmp_path / f"{k}.safetensors"
        content.train(facts, "dots", tmp_path / "dots.h5", out, tmp_path / "runs")
        made.append(load_file(out))
    assert same(made[0], made[2]) and not same(made[0], made[1])
    assert len(list((tmp_path / "runs" / "dots").iterdir())) == 2


def test_accelerates_own_precision_does_not_come_on_top(params, store, tmp_path, monkeypatch):
    content.train(params, "dots", store, tmp_path / "plain.st", tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch` sets it by its configuration
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
    content.train(params, "dots", store, tmp_path / "launched.st", tmp_path / "launched")
    assert same(load_file(tmp_path / "plain.st"), load_file(tmp_path / "launched.st"))


def test_others_may_read_what_was_trained(params, store, tmp_path):
    old = os.umask(0o022)
    try:
        content.train(params, "dots", store, tmp_path / "content.safetensors", tmp_path / "runs")
    finally:
        os.umask(old)
    made = [tmp_path / "content.safetensors", *(tmp_path / "runs").rglob("*.safetensors")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o644}
