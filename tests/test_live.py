"""What DVC can show of a run while it runs: continued over restarts, and never in the way."""

import csv
import json

import accelerate.tracking
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vidm.config import Running
from vidm.training import loop, motion
from vidm.training.checkpoint import Checkpoints
from vidm.training.live import POINTS, Live
from vidm.training.processes import accelerator_of

pytest.importorskip("dvclive", reason="dvclive is not installed: nothing is written for DVC")
CURVES = {"loss", "smoothed", "lr", "samples", "samples_per_second"}


def experiment(params, **running):
    e = params.experiment("dots")
    facts = Running(**{"checkpoint_minutes": 0.0, "preview_steps": 0} | running)
    return params.model_copy(update={"experiments": {"dots": e.model_copy(update={"running": facts})}})


def rows(folder, name):
    with (folder / "live" / "plots" / "metrics" / f"{name}.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(autouse=True)
def every_step(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.chdir(tmp_path)  # in no repository: DVCLive would open it


@pytest.fixture(scope="module")
def plain(params, store, tmp_path_factory):
    """The run folder of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.chdir(folder)
        motion.train(experiment(params, preview_steps=1), "dots", store, folder / "m.st", folder / "runs")
    return next((folder / "runs" / "dots").iterdir())


def test_curves_and_the_last_picture(plain):
    assert {path.stem for path in (plain / "live/plots/metrics").iterdir()} == CURVES
    for name in CURVES:
        assert [row["step"] for row in rows(plain, name)] == ["1", "2", "3"]
    with (plain / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    for name in ("loss", "lr", "samples"):
        assert [float(row[name]) for row in rows(plain, name)] == [float(row[name]) for row in curve]
    last = json.loads((plain / "live/metrics.json").read_text())
    assert last["step"] == 3 and last["samples"] == 6 and last["loss"] == float(curve[-1]["loss"])
    with (
        Image.open(plain / "live/plots/images/preview.png") as shown,
        Image.open(plain / "preview/step-000000003.png") as drawn,
    ):
        assert shown.size == drawn.size and shown.tobytes() == drawn.tobytes()


def test_a_run_that_goes_on_continues_its_curves(plain, params, store, tmp_path, monkeypatch):
    """Stopped after two entries, of which one checkpoint knows: its rows are cut back, half of a row is none."""

    def cut(*values):
        if len(saves) == 2:
            raise RuntimeError("power cut")
        return honest(*values)

    honest, saves, save = loop.together, [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *a: (saves.append(1), len(saves) == 1 and save(*a)))
    monkeypatch.setattr(loop, "together", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        motion.train(experiment(params), "dots", store, tmp_path / "m.st", tmp_path / "runs")
    monkeypatch.undo()
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    (folder,) = (tmp_path / "runs" / "dots").iterdir()
    assert [row["step"] for row in rows(folder, "loss")] == ["1", "2"]
    with (folder / "live/plots/metrics/loss.tsv").open("a") as file:
        file.write("3\t0.")
    (folder / "live/metrics.json").write_text('{"loss": ')
    motion.train(experiment(params), "dots", store, tmp_path / "m.st", tmp_path / "runs")
    for name in ("loss", "smoothed", "lr", "samples"):
        assert rows(folder, name) == rows(plain, name)


def test_without_dvclive_it_trains_the_same(plain, params, store, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])  # as accelerate finds it on a GPU node
    motion.train(experiment(params), "dots", store, tmp_path / "m.st", tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("dots/*/live"))
    (weights,) = plain.parents[2].glob("m.st")
    made, expected = load_file(tmp_path / "m.st"), load_file(weights)
    assert all(made[key].equal(expected[key]) for key in expected)


def test_it_can_be_switched_off(params, store, tmp_path):
    motion.train(experiment(params, dvclive=False), "dots", store, tmp_path / "m.st", tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("dots/*/live"))


def test_where_it_cant_write_the_training_goes_on(plain, params, store, tmp_path, capfd):
    runs = tmp_path / "runs"
    (runs / "dots" / plain.name / "live").mkdir(parents=True)
    (runs / "dots" / plain.name / "live" / "plots").touch()  # a file where a folder is wanted
    motion.train(experiment(params), "dots", store, tmp_path / "m.st", runs)
    assert capfd.readouterr().err.count("no more curves for DVC") == 1
    assert (tmp_path / "m.st").exists()


@pytest.mark.parametrize("steps", [1, 1100, 5000, 9999, 400_000])
def test_a_long_run_has_not_many_more_entries_than_a_short_one(steps, tmp_path):
    live = Live(accelerator_of(torch.device("cpu")), tmp_path, steps, 10)
    assert live.every % 10 == 0 and steps // live.every < 2 * POINTS
