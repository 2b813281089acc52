"""The model card of pretrained weights: facts.json for people, and nothing that is not in it."""

from __future__ import annotations

from typing import Any

FORM = """# {name}: pretrained weights

Two networks of the experiment `{experiment}`: the content network makes a first frame from noise, the motion network
frame after frame from it. {size} x {size} pixels, {frames} frames.

    vidm sample --pretrained {place} --out skies.mp4

## Data
{data}

## Licence
{licence}, as the package.

## Training
| | content | motion |
| --- | --- | --- |
{training}

Beyond the paper: {beyond}.

## Quality
{quality}

## Limits
{limits}

## Files
Half precision; `sha256sum -c SHA256SUMS` checks them. Before it was rounded, each had the hash in the last column.

| file | sha256 | sha256 of the trained file |
| --- | --- | --- |
{files}
"""
ROWS = {
    "parameters": "parameters",
    "step": "steps",
    "samples": "samples seen",
    "ema": "moving average",
    "precision": "precision",
    "seed": "seed",
}
COST = {"device": "device", "device_hours": "device hours"}


def card(about: dict[str, Any]) -> str:
    """Markdown of facts.json's content."""
    parts = about["checkpoints"]
    facts = about["params"]["experiments"][about["experiment"]]
    dataset = about["params"]["datasets"][facts["dataset"]]
    return FORM.format(
        name=about["name"],
        place=about.get("place", about["name"]),  # a name alone may be one of the package
        experiment=about["experiment"],
        size=dataset["resolution"],
        frames=facts["frames"],
        data=_data(dataset, parts["content"]),
        licence=about["licence"],
        training="\n".join(_training(about)),
        beyond=", ".join(f"`{switch}`" for switch in about["beyond_the_paper"]) or "nothing",
        quality=quality(about["measured"]),
        limits="\n".join(f"- {limit}" for limit in _limits(dataset, parts["content"], about["measured"])),
        files="\n".join(
            f"| {part}.safetensors | `{found['sha256']}` | `{found['trained_sha256']}` |"
            for part, found in parts.items()
        ),
    )


def _procedural(content: dict[str, Any]) -> bool:
    return content.get("data_origin") == "procedural"


def _data(dataset: dict[str, Any], content: dict[str, Any]) -> str:
    digest = f"Frame store: sha256 `{content['data_sha256']}`."
    if not _procedural(content):
        return f"Videos in `{dataset['raw']}`. {digest}"
    p = dataset.get("procedural")  # gone where videos have taken its place
    drawn = p and f": {p['train']} clips of {p['frames']} frames, seed {p['seed']}, at {p['size']} pixels"
    return (
        f"The embedded sky, rendered by `vidm data render`{drawn or ''}, scaled to {dataset['resolution']}. "
        f"No one's videos. {digest}"
    )


def _training(about: dict[str, Any]) -> list[str]:
    content, motion = (about["checkpoints"][part] for part in ("content", "motion"))
    rows = [(word, content.get(key), motion.get(key)) for key, word in ROWS.items()]
    cost = [about["cost"].get(part, {}) for part in ("content", "motion")]
    rows += [(word, *(c.get(key) for c in cost)) for key, word in COST.items()]
    return [f"| {word} | {_said(a)} | {_said(b)} |" for word, a, b in rows]


def _said(value: Any) -> str:
    return "not recorded" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def quality(measured: dict[str, Any]) -> str:
    if not measured:
        return "Not measured."
    base, sampling = measured["baselines"], measured["sampling"]
    motion, seeds, first = measured["motion"]["samples"], measured.get("seeds"), ""
    low, high = measured.get("interval") or (None, None)
    interval = f", 95% interval {low:.0f} to {high:.0f}" if low is not None else ""
    if seeds:  # the interval, and baselines of samples, are the first seed's
        interval = f", mean of {len(seeds['values'])} seeds, standard deviation {seeds['std']:.0f}"
        motion, first = seeds["motion"]["mean"], " of the first seed"
    names = {name: said.format(held=_held(measured), first=first) for name, said in NAMES.items()}
    return "\n".join(
        [
            f"Fréchet video distance, protocol `{measured['protocol']}`, n = {measured['n']}: "
            f"**{measured['fvd']:.0f}**{interval}. Lower is better; measured before the weights were rounded.",
            "",
            "| | FVD |",
            "| --- | --- |",
            f"| these samples | {measured['fvd']:.0f} |",
            *(f"| {said} | {base[name]:.0f} |" for name, said in names.items() if base.get(name) is not None),
            "",
            f"Sampled with {sampling['sampler']}, {sampling['steps']} steps a frame; the first frame with "
            f"{sampling.get('content_sampler') or sampling['sampler']}, {sampling['content_steps']} steps. "
            f"Motion, mean grey levels a frame: {motion:.1f}, "
            f"in test videos {measured['motion']['test']:.1f}.",
        ]
    )


NAMES = {
    "floor": "floor: {held}",
    "static": "first frames of {held}, standing still",
    "self_static": "the generated first frames{first}, standing still",
    "shuffled": "{held}, frames in another order",
    "noise": "noise",
}


def _held(measured: dict[str, Any]) -> str:
    """The real videos of the baselines. A report of before it named their split has those of test."""
    split = measured.get("held_out", "test")
    return f"{split} videos" if split else "real videos held out"


def _limits(dataset: dict[str, Any], content: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    limits = [f"Made for {dataset['resolution']} pixels; longer videos than trained for drift."]
    if _procedural(content):
        limits.append("Trained on a drawn sky: it makes such skies, no real ones. Its FVD compares with no paper's.")
    if measured and measured["fvd"] > measured["baselines"].get("static", float("inf")):
        limits.append(f"By FVD these videos are worse than {_held(measured)} that stand still.")
    return limits + [warning[0].upper() + warning[1:] + "." for warning in measured.get("warnings", [])]
