"""What the motion network alone is worth: videos that begin with frame 0 of test clips, beside those very clips.

All by the experiment's first protocol, against real windows of the train split:

    fvd       the videos that go on from those first frames
    static    those first frames, repeated: the same pictures, no motion
    floor     the test clips, from frame 0 on: what a perfect motion network would get
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vidm.data.store import FrameStore, first_frames_hash
from vidm.errors import InputError
from vidm.metrics import over_time, sources
from vidm.metrics.clipset import ClipSet, cut, drawn
from vidm.metrics.measurement import Measurement, rows_of
from vidm.metrics.sources import Source

# Of `sampling`: what makes no other motion from the same first frame, or only to rounding.
APART = {
    *("seeds", "given", "device", "precision", "networks_unlike_params"),
    *("content", "content_sampler", "content_steps"),
}


def check(given: Path, begun: dict[str, Any], data: FrameStore, samples: Path, made: dict[str, Any]) -> None:
    """Raises InputError where the videos in `given` do not begin with frame 0 of the test clips of `data`, or were made
    by another motion network or other settings than those in `samples`.

    begun, made: what `vidm sample` noted in the one and in the other, as `provenance.made_by` returns it.
    """
    if not data.indices("test"):
        raise InputError(f"{data.path}: has no test clips to give first frames of; set metrics.motion_only to 0")
    remedy = f"make it again by vidm sample --first {data.path} --out {given.parent}"
    ours, theirs = begun["sampling"], made["sampling"]
    if "given" not in ours:
        raise InputError(f"{given}: its videos do not begin with given frames; {remedy}")
    if ours["given"]["sha256"] != first_frames_hash(1, [data.hashes[i] for i in data.indices("test")]):
        raise InputError(f"{given}: its first frames are not those of the test clips of {data.path}; {remedy}")
    hashes = [facts["checkpoints"]["motion"]["sha256"][:12] for facts in (begun, made)]
    if hashes[0] != hashes[1]:
        raise InputError(f"{given}: its motion network is {hashes[0]}, that of {samples} is {hashes[1]}; {remedy}")
    unlike = sorted(k for k in (ours.keys() | theirs.keys()) - APART if ours.get(k) != theirs.get(k))
    if unlike:
        raise InputError(f"{given}: sampled with another {', '.join(unlike)} than {samples}; {remedy}")


class MotionOnly:
    """The jobs of such videos in the plan of a measurement, and their part of the report after the plan has run.

    first: the measurement of the first protocol, whose real windows these are measured against, too, as many as both
    have. data: the store whose test clips gave the first frames, clip by clip in its order. splits: of it, by name.
    sampling: what `vidm sample` noted of the videos in `given`.
    """

    def __init__(
        self,
        first: Measurement,
        data: FrameStore,
        splits: dict[str, Source],
        given: FrameStore,
        sampling: dict[str, Any],
    ) -> None:
        self.first, self.given = first, sampling["given"]
        start = replace(first.rules, start="first", windows="one per clip")
        made = sources.by_seed(sources.from_store(given, None), sampling["seeds"])[0]
        fake, real = cut(made, start), cut(splits["test"], start)
        ours, theirs, began = _by_clip(fake), _by_clip(real), sampling["seeds"]["videos"][0]
        clips = enumerate(data.indices("test")[began:])
        pairs = [(ours[k], theirs[i]) for k, i in clips if k in ours and i in theirs]
        self.train = first.sets["real"] if first.rules.split == "train" else cut(splits["train"], first.rules)
        self.n = n = min(first.n, len(self.train), len(pairs))
        if n < 2:
            raise InputError(
                f"{given.path}: {n} videos have, like their test clips and those of train, the {start.span} frames of "
                f"protocol {start.name}; an FVD needs 2 or more"
            )
        fakes, reals = (list(rows) for rows in zip(*pairs[:n], strict=True))
        self.rows = drawn(self.train, n)[0]
        self.real = first.real if first.rules.split == "train" else first.logits(self.train, self.rows)
        self.others = {
            "fvd": first.logits(fake, fakes),
            "static": first.logits(real, reals, "static"),
            "floor": first.logits(real, reals),
        }
        self.frame_by_frame = [first.each_frame(fake, fakes), first.each_frame(real, reals)]

    def report(self) -> dict[str, Any]:
        """`motion_only` of a report."""
        real = rows_of(self.real, self.rows)
        values = {name: self.first.of(real, job.result) for name, job in self.others.items()}
        ratios = over_time.ratios(*(job.result for job in self.frame_by_frame))
        return {"n": self.n, **values, "over_time": ratios, "given": self.given}


def _by_clip(clips: ClipSet) -> dict[int, int]:
    """{clip: its window}, of clips with one window each."""
    return {clip.index: row for row, (clip, _) in enumerate(clips.windows)}
