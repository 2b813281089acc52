"""A run that is stopped, in whatever way, ends with the weights of the run that was not."""

import contextlib
import csv
import itertools
import json
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from vidm.config import Running, Training
from vidm.data.clips import TripletDraw
from vidm.data.store import FrameStore
from vidm.errors import InputError, Interrupted
from vidm.training import content, loop, motion
from vidm.training.checkpoint import Checkpoints
from vidm.training.loop import Task, fit
from vidm.training.processes import accelerator_of, parts
from vidm.training.run import run_folder

CPU = torch.device("cpu")


class Toy(nn.Module):
    """Everything that a state has: convolution, dropout, layers in channels_last."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(8, 3, 3))

    def forward(self, x):
        return self.body(x)


def batches(start, stop=30):
    for step in range(start, stop):
        yield {"x": torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))}


def task(of=batches, steps=30, loss=lambda m, b: m(b["x"]).square().mean(), **more):
    facts = Training(steps=steps, batch=4, lr=1e-2, warmup=3, decay="cosine", ema=0.9, precision="fp32")
    return Task("toy", facts, 0, of, loss, **more)


def run(folder, of=batches, running=None, **more):
    model = Toy()
    ema = fit(model, task(of, **more), running or Running(checkpoint_minutes=0), folder, accelerator_of(CPU)).ema
    return {f"model.{k}": v for k, v in model.state_dict().items()} | {
        f"ema.{k}": v for k, v in ema.state_dict().items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    return run(folder), (folder / "curve.csv").read_bytes()


def broken(at, do):
    """Batches that do something just before step `at`."""

    def of(start):
        for step, batch in enumerate(batches(start), start=start):
            if step == at:
                do()
            yield batch

    return of


def fail():
    raise RuntimeError("power cut")


@pytest.mark.parametrize("at", [1, 7, 10, 29])
def test_stopped_anywhere_it_ends_the_same(at, truth, tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, broken(at, fail))
    assert Checkpoints(tmp_path, 3).steps()[-1] == at
    assert same(run(tmp_path), truth[0])
    assert (tmp_path / "curve.csv").read_bytes() == truth[1]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_says_where(name, truth, tmp_path):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    never = Running(checkpoint_minutes=1e6)
    with pytest.raises(Interrupted, match=rf"{name} at step 13 of 30; saved in .*; the same command goes on"):
        run(tmp_path, broken(12, lambda: os.kill(os.getpid(), number)), never)
    assert signal.getsignal(number) == before
    assert Checkpoints(tmp_path, 3).steps() == [13]
    assert same(run(tmp_path, running=never), truth[0])
    assert (tmp_path / "curve.csv").read_bytes() == truth[1]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "renamed"])
def test_a_damaged_checkpoint_is_passed_over(damage, truth, tmp_path, capsys):
    with pytest.raises(RuntimeError):
        run(tmp_path, broken(20, fail))
    path = Checkpoints(tmp_path, 3).path(20)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    changed = {"cut": data[: len(data) // 2], "flip": data, "empty": b"", "text": b"x" * 500}
    if damage == "renamed":
        path.rename(Checkpoints(tmp_path, 3).path(25))
    else:
        path.write_bytes(changed[damage])
    assert same(run(tmp_path), truth[0])
    said = capsys.readouterr().err
    assert "half-written or damaged; the one before it is used" in said
    assert "goes on at step 19 of 30" in said


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    Checkpoints(tmp_path, 3).save(5, {"model/other": torch.zeros(1)}, 1.0)
    with pytest.raises(InputError, match=r"step-000000005\.safetensors: made by another version of vidm; remove"):
        run(tmp_path)


def test_the_last_few_stay_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step, loss in enumerate([5.0, float("nan"), 1.0, 4.0, 3.0, 2.0], start=1):
        checkpoints.save(step, {"a": torch.full((3,), float(step))}, loss)
    assert checkpoints.steps() == [3, 5, 6]
    assert checkpoints.newest(5)[0] == 5
    checkpoints.finish(6)
    assert checkpoints.steps() == [6]
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def flat_run(folder, steps, running=None, of=batches):
    """A run with a constant rate, whose folder those of other lengths share."""
    facts, model = task().facts.model_copy(update={"decay": "constant", "steps": steps}), Toy()
    part = Task("toy", facts, 0, lambda start: itertools.islice(of(start), steps - start), task().loss)
    return model, fit(model, part, running or Running(), folder, accelerator_of(CPU))


def test_more_steps_go_on_where_fewer_ended(tmp_path):
    flat_run(tmp_path / "a", 10)
    assert same(flat_run(tmp_path / "a", 20)[0].state_dict(), flat_run(tmp_path / "b", 20)[0].state_dict())


def test_fewer_steps_leave_a_longer_run_as_it_is(tmp_path):
    often = Running(checkpoint_minutes=0, keep=1)
    truth = flat_run(tmp_path, 30)[1].curve.rows
    for at in (7, 15):  # killed, too
        with pytest.raises(RuntimeError, match="power cut"):
            flat_run(tmp_path, 20, often, broken(at, fail))
        assert max(s for s in Checkpoints(tmp_path, 1).steps() if s < 30) == at
    assert [row[0] for row in flat_run(tmp_path, 20, often)[1].curve.rows] == [10, 20]
    Checkpoints(tmp_path, 1).finish(20)
    assert Checkpoints(tmp_path, 1).steps() == [20, 30]
    again = flat_run(tmp_path, 30)[1].curve
    assert again.rows == truth
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 1 + 3


def test_what_a_run_folder_depends_on(params, tmp_path):
    e = params.experiment("dots")

    def folder(experiment=e, data="d"):
        return run_folder(tmp_path, experiment, "motion", 16, {}, data, {}, 1)

    def changed(part, **update):
        return e.model_copy(update={part: getattr(e, part).model_copy(update=update)})

    same_run = [
        changed("sampling", steps=1),
        changed("metrics", videos=3),
        changed("running", workers=2, checkpoint_minutes=1.0),
        changed("content", constant=False),
        changed("motion", training=e.motion.training.model_copy(update={"steps": 99})),
    ]
    assert {folder(x) for x in same_run} == {folder()}
    others = [
        changed("motion", posgn=False),
        changed("motion", training=e.motion.training.model_copy(update={"lr": 0.1})),
        e.model_copy(update={"seed": 1}),
        e.model_copy(update={"frames": 3}),
    ]
    assert len({folder(), folder(data="other"), *map(folder, others)}) == 6
    cosine = e.motion.training.model_copy(update={"decay": "cosine"})
    longer = cosine.model_copy(update={"steps": 99})
    assert folder(changed("motion", training=cosine)) != folder(changed("motion", training=longer))


def test_what_a_kill_left_in_the_middle_of_a_save_is_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3)
    (tmp_path / "preview").mkdir()
    left = [tmp_path / ".step-000000001.safetensors.1-a.tmp", tmp_path / "preview" / ".step-000000001.png.1-a.tmp"]
    for path in left:
        path.touch()
    with FileLock(tmp_path / "lock"), pytest.raises(InputError), checkpoints.locked():
        pass
    assert all(path.exists() for path in left), "the other trainer may be writing them"
    with checkpoints.locked():
        assert not any(path.exists() for path in left)


def test_a_second_trainer_is_kept_out(params, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content.train(params, "dots", store, tmp_path / "a.safetensors")
    (folder,) = (tmp_path / "runs" / "dots").iterdir()
    with FileLock(folder / "lock"), pytest.raises(InputError, match="another process trains here"):
        content.train(params, "dots", store, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("bad", [1, 3])
def test_gradients_that_are_not_finite_are_skipped(bad, tmp_path, capsys):
    """The state after a skipped step is that before it."""

    def of(start):
        for step, batch in enumerate(batches(start, 5 + bad), start=start):
            yield {"x": batch["x"] * float("nan")} if step >= 5 else batch

    skipped = run(tmp_path / "a", of, Running(bad_steps=4), steps=5 + bad)
    assert capsys.readouterr().err.count("not finite; skipped") == bad
    model = Toy()
    short = task(lambda start: batches(start, 5), steps=5 + bad)
    fit(model, short, Running(), tmp_path / "b", accelerator_of(CPU))
    assert same({k.removeprefix("model."): v for k, v in skipped.items() if k.startswith("model.")}, model.state_dict())


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradients_are(tmp_path, capsys):
    """What does not depend on the weights has no gradient."""

    def loss(model, batch):
        bad = float("inf") if batch["x"][0, 0, 0, 0] == 7 else 0.0
        return model(batch["x"]).square().mean() + bad

    def of(start):
        for step, batch in enumerate(batches(start, 6), start=start):
            if step == 5:
                batch["x"][0, 0, 0, 0] = 7
            yield batch

    skipped = run(tmp_path / "a", of, steps=6, loss=loss)
    assert "loss or gradients of step 6 are not finite; skipped (1 in a row)" in capsys.readouterr().err
    model = Toy()
    fit(model, task(lambda start: batches(start, 5), steps=6), Running(), tmp_path / "b", accelerator_of(CPU))
    assert all(torch.equal(skipped[f"model.{k}"], v) for k, v in model.state_dict().items())


def test_too_many_bad_steps_stop_it_and_the_last_good_state_stays(tmp_path):
    def of(start):
        for step, batch in enumerate(batches(start), start=start):
            yield {"x": batch["x"] * float("inf")} if step >= 8 else batch

    with pytest.raises(InputError, match=r"4 steps in a row were not finite, up to step 12; the last good state is"):
        run(tmp_path, of, Running(checkpoint_minutes=0, bad_steps=4))
    assert Checkpoints(tmp_path, 3).newest(30) is not None


def test_a_spike_is_reported(tmp_path, capsys):
    def loss(model, batch):
        return model(batch["x"]).square().mean() + 100 * float(batch["x"][0, 0, 0, 0] == 7)

    def of(start):
        for step, batch in enumerate(batches(start), start=start):
            if step == 25:
                batch["x"][0, 0, 0, 0] = 7
            yield batch

    run(tmp_path, of, loss=loss)
    assert "the loss rose to" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_checkpoint(truth, tmp_path, capsys):
    """A limit on a file's size is what a full disk looks like to a writer."""
    with pytest.raises(RuntimeError):
        run(tmp_path, broken(10, fail))
    small = Checkpoints(tmp_path, 3).path(10).stat().st_size // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (small, before[1]))
    try:
        with pytest.raises(RuntimeError):
            run(tmp_path, broken(15, fail))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoint of step 11 not saved" in capsys.readouterr().err
    assert Checkpoints(tmp_path, 3).steps()[-1] == 10
    assert not list(tmp_path.glob(".*.tmp"))
    assert same(run(tmp_path), truth[0])


def test_a_picture_that_cant_be_written_stops_nothing(truth, tmp_path, capsys):
    def draw(network, path):
        path.write_bytes(b"")

    (tmp_path / "preview").touch()  # a file where a folder is wanted
    assert same(run(tmp_path, running=Running(checkpoint_minutes=0, preview_steps=10), preview=draw), truth[0])
    assert capsys.readouterr().err.count("png: not drawn") == 3


def test_data_that_change_are_named(params, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(store.read_bytes())
    step = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda *a: (copy.touch(), os.utime(copy, (1, 1)), step(*a))[-1])
    with pytest.raises(InputError, match=r"copy\.h5: changed while it was trained on"):
        content.train(params, "dots", copy, tmp_path / "a.safetensors")
    monkeypatch.setattr(loop, "learning_rate", lambda *a: (copy.unlink(missing_ok=True), step(*a))[-1])
    with pytest.raises(InputError, match=r"copy\.h5: gone while it was trained on"):
        content.train(params, "dots", copy, tmp_path / "a.safetensors")


def of_experiment(params, **running):
    e = params.experiment("dots")
    facts = e.running.model_copy(update=running)
    return params.model_copy(update={"experiments": {"dots": e.model_copy(update={"running": facts})}})


def test_workers_may_change_in_the_middle(params, store, tmp_path, monkeypatch):
    """0, then 1, then 2 processes prepare the batches, with a power cut in between."""
    motion.train(params, "dots", store, tmp_path / "plain.st", tmp_path / "plain")

    def cut_at(last):
        def together(*values):
            if len(Checkpoints(next((tmp_path / "runs" / "dots").iterdir()), 9).steps()) > last:
                fail()
            return honest(*values)

        return together

    honest = loop.together
    for workers in (0, 1, 2):
        monkeypatch.setattr(loop, "together", cut_at(workers) if workers < 2 else honest)
        facts = of_experiment(params, workers=workers, checkpoint_minutes=0.0)
        with contextlib.nullcontext() if workers == 2 else pytest.raises(RuntimeError, match="power cut"):
            motion.train(facts, "dots", store, tmp_path / "m.st", tmp_path / "runs")
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "plain.st").read_bytes()


def test_workers_parts_and_checkpointing_do_not_matter(params, store, tmp_path):
    made = {}
    settings = {
        "plain": {},
        "one": {"workers": 1},
        "two": {"workers": 2},
        "parts": {"accumulation": 2},
        "memory": {"gradient_checkpointing": True},
    }
    for name, running in settings.items():
        motion.train(of_experiment(params, **running), "dots", store, tmp_path / f"{name}.st", tmp_path / name)
        made[name] = load_file(tmp_path / f"{name}.st")
    assert same(made["plain"], made["one"]) and same(made["plain"], made["two"])
    assert same(made["plain"], made["memory"])
    curves = {}
    for name in ("plain", "parts"):
        with next((tmp_path / name / "dots").iterdir()).joinpath("curve.csv").open() as file:
            curves[name] = [float(row["loss"]) for row in csv.DictReader(file)]
    assert curves["parts"] == pytest.approx(curves["plain"], rel=1e-4)
    with pytest.raises(InputError, match=r"training\.batch: 2 is not a multiple of 1 processes x 3 parts"):
        content.train(of_experiment(params, accumulation=3), "dots", store, tmp_path / "x.st", tmp_path / "x")


def test_pictures_on_the_way_change_nothing(params, store, tmp_path):
    for part, train, size in (
        ("content", content.train, (6 * 98, 98)),
        ("motion", motion.train, (64 + 4 * 98, 18 + 6 * 98)),
    ):
        for steps in (0, 1):
            train(
                of_experiment(params, preview_steps=steps),
                "dots",
                store,
                tmp_path / f"{part}{steps}",
                tmp_path / str(steps),
            )
        assert same(load_file(tmp_path / f"{part}0"), load_file(tmp_path / f"{part}1"))
        pictures = sorted((tmp_path / "1").glob(f"dots/{part}-*/preview/*.png"))
        assert [p.name for p in pictures] == [f"step-{k:09d}.png" for k in (1, 2, 3)]
        with Image.open(pictures[-1]) as picture:
            assert picture.size == size
            seen = np.asarray(picture)
        assert len(np.unique(seen)) > 20
    with FrameStore(store) as frames:
        item = TripletDraw(frames, frames=4, seed=0).item(0, 0)
    true = np.kron((item["target"].transpose(1, 2, 0) + 1) * 127.5, np.ones((6, 6, 1)))
    assert np.abs(seen[18 : 18 + 96, 64 + 3 * 98 : 64 + 3 * 98 + 96] - true).max() < 1  # frame n as it is, last column


def test_two_parts_are_one_batch(params, store, tmp_path, monkeypatch):
    """The loss of each of 20 steps, to 1e-5."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    training = params.experiment("dots").content.training.model_copy(update={"steps": 20, "precision": "fp32"})
    curves = []
    for parts_of_it in (1, 2):
        facts = of_experiment(params, accumulation=parts_of_it)
        e = facts.experiment("dots")
        e = e.model_copy(update={"content": e.content.model_copy(update={"training": training})})
        facts = facts.model_copy(update={"experiments": {"dots": e}})
        out = tmp_path / str(parts_of_it) / "content.safetensors"
        content.train(facts, "dots", store, out, out.parent / "runs")
        with out.with_name("content_loss.csv").open() as file:
            curves.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert len(curves[0]) == 20
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_is_the_same_to_rounding(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    made = {}
    for compiled in (False, True):
        facts = Running(compile=compiled, dvclive=False)
        made[compiled] = fit(Toy(dropout=0.0), task(), facts, tmp_path / str(compiled), accelerator_of(CPU)).ema
    assert_close(made[True].state_dict(), made[False].state_dict(), rtol=1e-4, atol=1e-5)
    state = load_file(Checkpoints(tmp_path / "True", 3).path(30))
    assert "model/body.0.weight" in state, "a checkpoint does not know that it was compiled"


def test_what_a_run_cost_is_summed_over_restarts(tmp_path):
    def slow(start):
        for step, batch in enumerate(batches(start), start=start):
            time.sleep(0.02)
            if step == 20 and not start:
                fail()
            yield batch

    folder = tmp_path / "runs"
    with pytest.raises(RuntimeError, match="power cut"):
        run(folder, slow)
    began = time.monotonic()
    fitted = fit(Toy(), task(slow), Running(checkpoint_minutes=0), folder, accelerator_of(CPU))
    assert fitted.seconds > 30 * 0.02
    assert fitted.seconds > time.monotonic() - began, "the steps before the cut are in it"
    assert fitted.device_seconds == fitted.seconds  # one process


def test_what_a_run_cost_stands_beside_the_weights(params, store, tmp_path):
    content.train(params, "dots", store, tmp_path / "content.safetensors", tmp_path / "runs")
    cost = json.loads((tmp_path / "content_run.json").read_text())
    assert (cost["step"], cost["samples"], cost["devices"]) == (3, 6, 1)
    assert cost["wall_seconds"] > 0 and cost["device_hours"] == pytest.approx(cost["wall_seconds"] / 3600, abs=1e-4)
    assert 0.3 < cost["loss"] < 1.5


def test_parts_of_a_batch():
    batch = {"x": torch.arange(5)}
    found = list(parts(batch, 2))
    assert torch.equal(torch.cat([part["x"] for part, _, _ in found]), batch["x"])
    assert sum(share for _, share, _ in found) == pytest.approx(1)
    assert [last for _, _, last in found] == [False, True]
