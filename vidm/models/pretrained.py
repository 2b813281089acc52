"""Trained networks that come with the package: `vidm sample --pretrained NAME`.

    vidm/pretrained/NAME/
      content.safetensors, motion.safetensors    half precision
      facts.json                                 the experiment's facts, how it was trained, how good it is
      card.md                                    the same for people, made of facts.json alone
      SHA256SUMS                                 of these four, as sha256sum writes and checks them

`pack` makes such a folder of a trained experiment; `find` checks and reads one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save

from vidm import config
from vidm.errors import InputError
from vidm.faults import nearest, shown
from vidm.files import replacing
from vidm.models import trained
from vidm.models.card import card, quality
from vidm.models.official import EXPERIMENT as OFFICIAL

FOLDER = Path(__file__).parents[1] / "pretrained"
PARTS, FACTS, CARD, SUMS = ("content", "motion"), "facts.json", "card.md", "SHA256SUMS"
SAMPLED = ("sampler", "content_sampler", "steps", "content_steps", "eta", "noise_correlation", "sigma_max", "sigma_min")


@dataclass(frozen=True)
class Pretrained:
    """A checked folder. `params` has one experiment, `experiment`; `about` is the whole of facts.json."""

    folder: Path
    params: config.Params
    experiment: str
    about: dict[str, Any]

    def path(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"


def names() -> list[str]:
    """What comes with this package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{SUMS}"))


def table() -> str:
    """The folders of this package, a few lines each; empty where there is none."""
    said = []
    for name in names():
        about = json.loads((FOLDER / name / FACTS).read_text(encoding="utf-8"))
        facts, measured = about["params"]["experiments"][about["experiment"]], about["measured"]
        size = about["params"]["datasets"][facts["dataset"]]["resolution"]
        value = f"FVD {measured['fvd']:.0f}, see the card for its floor" if measured else "not measured"
        said += [
            f"{name}: content and motion network, {size} pixels, {facts['frames']} frames",
            f"  quality  {value}",
            f"  licence  {about['licence']}",
            f"  card     {FOLDER / name / CARD}",
            f"  use      vidm sample --pretrained {name} --out {name}.mp4",
        ]
    return "\n".join(said)


def find(name: str, folder: Path | None = None) -> Pretrained:
    """Weights of the package by name, or of a folder that `pack` made, every file as it was. Raises InputError.

    A name that is both is the package's, which one line on stderr says.
    """
    if folder is None and name not in names() and Path(name).is_dir():
        folder = Path(name)
    elif folder is None and (Path(name) / SUMS).is_file():
        print(f"vidm: --pretrained {name}: that of the package; for the folder here give ./{name}", file=sys.stderr)
    if folder is None:
        if name not in names():
            raise InputError(f"--pretrained {name}: no such weights in this package{nearest(name, names())}")
        folder = FOLDER / name
    _check(folder)
    about = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Pretrained(folder, config.resolve(about["params"], str(folder / FACTS)), about["experiment"], about)


def _check(folder: Path) -> None:
    remedy = "install vidm again" if folder.parent == FOLDER else "make it again with 'vidm weights pack'"
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        for name in (*(f"{part}.safetensors" for part in PARTS), FACTS, CARD):
            if trained.file_sha256(folder / name) != sums.get(name):
                raise InputError(f"{folder / name}: not the file that {SUMS} names; {remedy}")
    except (OSError, ValueError):
        raise InputError(f"{folder}: a file of the pretrained weights is missing or damaged; {remedy}") from None


def pack(params: config.Params, experiment: str, models: Path, report: Path | None, out: Path) -> str:
    """Make `out` of models/{content,motion}.safetensors and of the experiment's report. Returns a summary.

    report: results/{experiment}_fvd.json; None says in the card that nothing was measured. Raises InputError where
    the report is of other weights or another way to sample, or the weights are not what the experiment trains.
    """
    e, checkpoints, cost = params.experiment(experiment), {}, {}
    digests, of, measured = _report(report) if report else ({}, None, {})
    notes: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        path = models / f"{part}.safetensors"
        network, notes[part] = trained.load(path, part, "cpu")
        _own(params, e, part, path, network.facts, notes[part])
        digest = trained.file_sha256(path)
        if report and digests[part] != digest:
            raise InputError(f"{report}: measured with other {part} weights than {path}; run vidm evaluate again")
        run = path.with_name(f"{part}_run.json")
        cost[part] = _read(run, "vidm train") if run.is_file() else {}
        kept = ("step", "samples", "ema", "precision", "seed", "data_sha256", "data_origin", "spynet_sha256", "torch")
        checkpoints[part] = {key: notes[part][key] for key in kept if key in notes[part]}
        checkpoints[part] |= {"trained_sha256": digest, "parameters": sum(p.numel() for p in network.parameters())}
    for key in ("data_sha256", "labels_sha256", "classes"):
        one, other = (notes[part].get(key) for part in PARTS)
        if None not in (one, other) and one != other:
            raise InputError(f"{models}: content and motion are trained on other data ({key}); train one of them again")
    if report:
        _measured(e, report, of, measured["sampling"])
    about = {
        "name": out.name,
        "experiment": experiment,
        "licence": "MIT",
        "params": _document(params, e),
        "checkpoints": checkpoints,
        "cost": cost,
        "beyond_the_paper": config.unlike_paper(e),
        "measured": measured,
    }
    if out.resolve().parent != FOLDER.resolve():
        about["place"] = f"path/to/{out.name}"
    files: dict[str, bytes] = {}  # all of them before the first is written
    for part in PARTS:
        # A SpyNet that stayed as the package ships it is there once for all.
        apart = trained.SPYNET if part == "motion" and trained.shares_spynet(notes[part]) else None
        made = files[f"{part}.safetensors"] = _half(models / f"{part}.safetensors", apart)
        checkpoints[part]["sha256"] = hashlib.sha256(made).hexdigest()
    files[FACTS] = (json.dumps(about, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    files[CARD] = card(about).encode()
    size = sum(map(len, files.values())) / 1e6
    files[SUMS] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    for name, data in files.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(data)
    parameters = sum(c["parameters"] for c in checkpoints.values()) / 1e6
    return f"{out}: {size:.2f} MB, {parameters:.2f} M parameters in half precision"


def _own(
    params: config.Params,
    e: config.Experiment,
    part: str,
    path: Path,
    facts: config.Content | config.Motion,
    notes: dict[str, Any],
) -> None:
    """InputError where a network's notes are not what the experiment would train."""
    where, remedy = f"experiments.{e.name}", "pack what it is of, or train it again"
    if facts != getattr(e, part):
        raise InputError(f"{path}: not trained as {where}.{part} says; train it again")
    of = getattr(e, f"{part}_of") or e.name
    if notes.get("experiment", of) not in (of, OFFICIAL):
        raise InputError(f"{path}: trained as '{notes['experiment']}', not as '{of}'; {remedy}")
    if bool(notes["classes"]) is not e.class_conditioning:
        said = f"{where}.class_conditioning is {shown(e.class_conditioning)}"
        raise InputError(f"{path}: trained with {len(notes['classes'])} classes, {said}; {remedy}")
    wanted = [("size", f"datasets.{e.dataset}.resolution", params.dataset(e.dataset).resolution)]
    wanted += [("seed", f"{where}.seed", e.seed)]
    wanted += [("frames", f"{where}.frames", e.frames)] if part == "motion" else []
    for key, field, value in wanted:
        if notes.get(key, value) != value:  # an imported network has no seed
            raise InputError(f"{path}: trained with {key} {notes[key]}, {field} is {value}; {remedy}")


def _half(source: Path, apart: str | None) -> bytes:
    """A copy in half precision with the same notes, without tensors whose names start with `apart`.

    Raises InputError where a weight is too large for it.
    """
    with safe_open(source, "pt") as file:
        note = file.metadata()[trained.KEY]
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key: value for key, value in state.items() if apart is None or not key.startswith(apart)}
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in halves.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{source}: '{key}' is beyond half precision")
    return save(halves, {trained.KEY: note})


def _document(params: config.Params, e: config.Experiment) -> dict[str, Any]:
    """A params.yaml of this experiment alone, nothing left to defaults that a later version may change."""
    apart = {"name", "content_of", "motion_of", "running", "metrics"}
    dataset = params.dataset(e.dataset).model_dump(mode="json", exclude_none=True)
    return {
        "model_version": params.model_version,
        "datasets": {e.dataset: dataset},
        "experiments": {e.name: e.model_dump(mode="json", exclude=apart, exclude_none=True)},
    }


def _measured(e: config.Experiment, report: Path, of: str | None, sampling: dict[str, Any]) -> None:
    """InputError where a report is of another experiment, or of videos that this one would not sample."""
    remedy = "sample again and run vidm evaluate again"
    if of not in (None, e.name):
        raise InputError(f"{report}: of '{of}', not of '{e.name}'; {remedy}")
    for key in SAMPLED:
        if sampling.get(key) != (value := getattr(e.sampling, key)):
            other = f"{key} {shown(sampling.get(key))}, experiments.{e.name}.sampling.{key} is {shown(value)}"
            raise InputError(f"{report}: measured with {other}; {remedy}")


def _report(path: Path) -> tuple[dict[str, str | None], str | None, dict[str, Any]]:
    """The hashes of the weights and the experiment that a report is of, and what a card needs.

    Raises InputError where it is none.
    """
    report = _read(path, "vidm evaluate")
    try:
        found = {key: report[key] for key in ("fvd", "n", "baselines", "motion", "sampling", "warnings")}
        found["protocol"] = report["protocol"]["name"]
        found["held_out"] = report.get("held_out", "test")
        if report.get("seeds"):
            found["seeds"] = report["seeds"]
        elif report.get("interval"):
            found["interval"] = [report["interval"]["low"], report["interval"]["high"]]
        quality(found)
        # Samples of given first frames have no content network.
        hashes = {part: report["checkpoints"].get(part, {}).get("sha256") for part in PARTS}
        return hashes, report.get("experiment"), found
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: not a report of vidm evaluate; make it again") from None


def _read(path: Path, maker: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); make it with {maker}") from None
    except (ValueError, TypeError):
        raise InputError(f"{path}: not what {maker} writes; make it again") from None
