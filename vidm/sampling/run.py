"""`vidm sample`: an experiment's videos, lossless in HDF5 for the metrics, mp4s and a contact sheet for people."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from vidm import machine
from vidm.config import Experiment, Params
from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.models import trained
from vidm.progress import bar
from vidm.sampling.export import contact_sheet, preview, write_video
from vidm.sampling.noise import label_of
from vidm.sampling.rollout import Rollout

SHEET_FPS = 8  # slow enough to watch 16 frames


def sample(params: Params, experiment: str, content: Path, motion: Path, out: Path) -> None:
    """Generate the videos of an experiment into the folder `out`: samples.h5, video_*.mp4, contact_sheet.png,
    preview.webp. Videos of an earlier run that this one does not make are removed.

    Raises InputError where the weights are not of this experiment's size and time grid.
    """
    e = params.experiment(experiment)
    device = machine.prepare(e.seed)
    content_network, content_notes = trained.load(content, "content", device)
    motion_network, motion_notes = trained.load(motion, "motion", device)
    _fit(e, params, content, content_notes, motion, motion_notes)
    rollout = Rollout(content_network, motion_network, e.sampling, device)
    checkpoints = {
        part: {"sha256": trained.file_sha256(path), "step": notes["step"], "ema": notes["ema"]}
        for part, path, notes in (("content", content, content_notes), ("motion", motion, motion_notes))
    }
    s = e.sampling
    settings = s.model_dump(mode="json", exclude={"videos", "sheet", "batch"}) | {
        "seeds": {"seed": e.seed, "videos": [0, s.videos - 1]},
        "frames": e.frames,
        "device": device.type,
        "motion": {
            "conditioning_noise": e.motion.conditioning_noise,
            "prediction": e.motion.diffusion.prediction,
        },
        "content": {"prediction": e.content.diffusion.prediction},
    }
    classes = list(motion_notes["classes"].items())
    if classes:
        settings["classes"] = len(classes)
    size, shown = content_network.size, []
    with StoreWriter(out / "samples.h5", size, size, settings, origin="generated") as store:
        store.attributes["checkpoints"] = json.dumps(checkpoints, sort_keys=True)
        store.attributes["sampling"] = json.dumps(settings, sort_keys=True)
        with bar(s.videos * e.frames, f"{e.name} sample", "frames") as progress:
            for start in range(0, s.videos, s.batch):
                numbers = range(start, min(start + s.batch, s.videos))
                labels = [label_of(e.seed, k, [clips for _, clips in classes]) for k in numbers] if classes else None
                clips = rollout.videos(e.seed, numbers, e.frames, labels, partial(progress.advance, len(numbers)))
                for i, (k, clip) in enumerate(zip(numbers, clips, strict=True)):
                    named = {"cls": classes[labels[i]][0]} if labels else {}
                    source = f"seed {e.seed} video {k}"
                    store.add(clip, fps=SHEET_FPS, stride=1, split="generated", source=source, **named)
                    if k < s.sheet:
                        shown.append(clip)
    for old in out.glob("video_*.mp4"):
        old.unlink()
    for k, clip in enumerate(shown):
        provenance = {"experiment": e.name, "seed": str(e.seed), "video": str(k)}
        provenance |= {part: facts["sha256"] for part, facts in checkpoints.items()}
        write_video(out / f"video_{k:03d}.mp4", clip, SHEET_FPS, provenance)
    contact_sheet(out / "contact_sheet.png", np.stack(shown))
    preview(out / "preview.webp", np.stack(shown), SHEET_FPS)


def _fit(e: Experiment, params: Params, content: Path, content_notes: dict, motion: Path, motion_notes: dict) -> None:
    size = params.dataset(e.dataset).resolution
    for path, notes in ((content, content_notes), (motion, motion_notes)):
        if notes["size"] != size:
            raise InputError(
                f"{path}: trained at {notes['size']} pixels, dataset '{e.dataset}' has {size}; train again"
            )
    if content_notes["classes"] != motion_notes["classes"]:
        raise InputError(
            f"{content} and {motion}: trained with other classes "
            f"({len(content_notes.get('classes', {}))} and {len(motion_notes.get('classes', {}))}); train again"
        )
    if motion_notes["frames"] != e.frames:
        raise InputError(
            f"{motion}: trained for {motion_notes['frames']} frames, experiments.{e.name}.frames is {e.frames}; "
            "train again, or set it back"
        )
