"""`vidm sample` and `vidm gather`: videos, lossless in HDF5 for the metrics, mp4s and a contact sheet for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidm import machine
from vidm.config import Experiment, Params
from vidm.data.store import FrameStore, StoreWriter
from vidm.errors import InputError
from vidm.files import check_folder
from vidm.progress import bar
from vidm.sampling import groups
from vidm.sampling.clock import Clock
from vidm.sampling.export import contact_sheet, preview, write_video
from vidm.sampling.groups import Kept
from vidm.sampling.plan import Plan, Wish, plan
from vidm.sampling.rollout import Rollout

SHEET_FPS = 8  # slow enough to watch 16 frames
RUNS = Path("runs")


def sample(
    params: Params,
    experiment: str,
    content: Path | None,
    motion: Path,
    out: Path,
    wish: Wish | None = None,
    cache_gb: float | None = None,
    benchmark: bool = False,
    runs: Path = RUNS,
) -> None:
    """Generate the videos of an experiment into the folder `out`: samples.h5, video_*.mp4, contact_sheet.png,
    preview.webp; of a shard, only shard_{k}_of_{n}.h5. Mp4s of an earlier run that this one does not make are removed.

    Group after group of videos is kept in `runs`, where a killed call goes on. `cache_gb` is the memory for residual
    features. Raises InputError before work starts: weights that are not of this experiment's size and time grid, and
    what else `vidm.sampling.plan` checks; videos that another file in `out` has already; no room on the disk.
    """
    for folder in (out, runs):
        check_folder(folder)
    wish = wish or Wish()
    seed = params.experiment(experiment).seed if wish.seed is None else wish.seed
    device = machine.prepare(seed)
    p = plan(params, experiment, content, motion, wish, device)
    machine.set_tf32(device, p.facts.precision)
    e = p.experiment
    for part, keys in p.unlike.items():
        _say(f"{e.name}: its {part} network is not what params.yaml says, but of another {', '.join(keys)}; that holds")
    if content is not None and p.content is None:
        _say(f"{e.name}: --content {content} is not used, as first frames are given")
    target = out / ("samples.h5" if wish.shard is None else "shard_{}_of_{}.h5".format(*wish.shard))
    groups.refuse_overlap(target, p.seeds[0], p.numbers)
    kept, parts = Kept(runs / e.name / f"samples-{p.run}"), groups.cut(p.numbers, p.facts.group)
    missing = [part for part in parts if not kept.whole(part)]
    share = sum(map(len, missing)) / len(p.numbers)
    said = groups.room({target.parent: p.nbytes, kept.folder: round(p.nbytes * share)})
    _say(f"{e.name}: {len(p.numbers)} videos of {p.frames} frames, {p.size} x {p.size} pixels: {said}")
    began, clock = time.perf_counter(), Clock(device if benchmark else None)
    cache = None if cache_gb is None else round(cache_gb * 1e9)
    rollout = Rollout(p.content, p.motion, p.facts, device, cache, p.beyond, clock)
    _make(p, rollout, kept, missing, clock)
    with clock("io"):
        about = {"sampling": p.settings, "checkpoints": p.checkpoints, "run": p.run}
        about |= {"experiment": e.name, "total": p.total}
        _write(target, p.size, about, [kept.path(part) for part in parts])
    if rollout.report:
        _say(f"{e.name}: {rollout.report}")
    if wish.shard is None:
        with clock("io"):
            pictures(e, out)
        kept.drop(p.numbers)
    else:
        kept.settle(parts)
    if benchmark:
        print(clock.table(time.perf_counter() - began))


def _make(p: Plan, rollout: Rollout, kept: Kept, missing: list[range], clock: Clock) -> None:
    """Every group that is not there yet, each into its own file."""
    done = len(p.numbers) - sum(map(len, missing))
    with bar(len(p.numbers) * p.frames, f"{p.experiment.name} sample", "frames", done * p.frames) as progress:
        for group in missing:
            note = f"{kept.videos()} of all shards' {p.total} videos" if p.wish.shard else ""
            given = None
            if p.given is not None:
                given = p.given.read([p.content_of(k) for k in group])
            labels = p.labels(group)
            advance = partial(progress.advance, len(group), note)
            try:
                clips = rollout.videos(p.noises(group), p.frames, labels, given, advance)
            except torch.OutOfMemoryError:
                raise InputError(
                    f"experiments.{p.experiment.name}.sampling.batch: the GPU has no memory for {p.facts.batch} videos "
                    "at once; lower it: the videos stay the same to rounding"
                ) from None
            with clock("io"):
                _write_group(p, kept.path(group), group, clips, labels)


def _write_group(p: Plan, path: Path, group: range, clips: np.ndarray, labels: list[int] | None) -> None:
    names = list(p.classes)
    with _said_if_full(path), StoreWriter(path, p.size, p.size, p.settings, origin="generated") as store:
        for i, (k, clip) in enumerate(zip(group, clips, strict=True)):
            named = {"cls": names[labels[i]]} if labels else {}
            source = "seed {} video {}".format(*p.address(k))
            store.add(clip, fps=SHEET_FPS, split="generated", source=source, **named)


def _write(target: Path, size: int, about: dict[str, Any], parts: list[Path]) -> None:
    """One store of several, with what the report says about them."""
    with _said_if_full(target), StoreWriter(target, size, size, about["sampling"], origin="generated") as store:
        store.attributes |= {key: json.dumps(value, sort_keys=True) for key, value in about.items()}
        groups.copy_clips(parts, store)


@contextmanager
def _said_if_full(path: Path) -> Iterator[None]:
    """A disk that is full is one line, not a traceback."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: can't be written ({reason}); make room, then the same command goes on") from None


def gather(params: Params, experiment: str, shards: list[Path], out: Path, runs: Path = RUNS) -> None:
    """One samples.h5 of all shards of a run, in the order of the videos, and the pictures of `sample` beside it.

    Raises InputError where shards are of different runs, of another experiment, overlap, or where videos are missing.
    """
    e = params.experiment(experiment)
    found = sorted(
        ((groups.notes(path), path) for path in shards), key=lambda x: groups.numbers(x[0]["sampling"]).start
    )
    (first, path), last = found[0], 0
    for notes, other in found:
        of = notes["experiment"]
        # One that params.yaml does not have is of pretrained weights, which bring their own facts.
        if of != e.name and of in params.every:
            raise InputError(f"{other}: videos of '{of}', not of '{e.name}'; name that, or sample {e.name}")
        if notes["run"] != first["run"]:
            raise InputError(f"{path} and {other}: made with other settings, weights or seed; sample them again")
        there = groups.numbers(notes["sampling"])
        if there.start != last:
            what = f"videos {last}..{there.start - 1} are missing" if there.start > last else "videos are there twice"
            raise InputError(f"{other}: before it {what}; give every shard of one run")
        last = there.stop
    for notes, other in found:
        if notes["total"] not in (last, None):
            raise InputError(f"{other}: of a run of {notes['total']} videos, given are {last}; give every shard")
    each, seeds = e.sampling.videos, len(first["sampling"]["seeds"].get("seeds", [""]))
    if first["total"] is None and last < each * seeds:
        raise InputError(
            f"{found[-1][1]}: ends with video {last - 1}, experiments.{e.name}.sampling.videos is {each}"
            f"{f' of each of {seeds} seeds' if seeds > 1 else ''}; give every shard"
        )
    seeds = first["sampling"]["seeds"] | {"videos": [0, last - 1]}
    devices = sorted({notes["sampling"]["device"] for notes, _ in found})
    settings = first["sampling"] | {"seeds": seeds, "device": ", ".join(devices)}
    target = out / "samples.h5"
    with FrameStore(path) as store:
        size = store.resolution
    groups.room({out: sum(p.stat().st_size for p in shards)})
    _write(target, size, first | {"sampling": settings, "total": last}, [p for _, p in found])
    pictures(e, out)
    Kept(runs / first["experiment"] / f"samples-{first['run']}").drop(range(last))


def pictures(e: Experiment, out: Path) -> None:
    """mp4s, contact sheet and preview of the first videos in out/samples.h5."""
    path = out / "samples.h5"
    about = groups.notes(path)
    seed = about["sampling"]["seeds"]["seed"]
    with FrameStore(path) as store:
        count = min(e.sampling.sheet, about["sampling"]["seeds"].get("each", len(store)))
        clips = [store.read(k) for k in range(count)]
    provenance = {"experiment": about["experiment"], "seed": str(seed)}
    provenance |= {part: facts["sha256"] for part, facts in about["checkpoints"].items()}
    for old in out.glob("video_*.mp4"):
        old.unlink()
    for k, clip in enumerate(clips):
        write_video(out / f"video_{k:03d}.mp4", clip, SHEET_FPS, provenance | {"video": str(k)})
    several = provenance | {"videos": f"0-{len(clips) - 1}"}
    contact_sheet(out / "contact_sheet.png", np.stack(clips), several)
    preview(out / "preview.webp", np.stack(clips), SHEET_FPS, several)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
