"""Whether an experiment's report and files are what the README promises. Usage: check.py EXPERIMENT [--ablations]"""

import json
import sys
from pathlib import Path

from vidm import config

name = sys.argv[1]
params = config.load()
experiment = params.experiment(name)
if "--ablations" in sys.argv:
    found = json.loads(Path(f"results/{name}_ablations.json").read_text(encoding="utf-8"))
    ablation = params.ablation(name)
    assert found["experiment"] == name and found["seeds"] == list(ablation.seeds)
    lengths = [f"fvd{found['protocols'][key]['frames']}" for key in found["protocols"]]
    assert "fvd16" in lengths and len(lengths) > 1
    for table, rows in ablation.tables.items():
        assert list(found["tables"][table]) == list(rows)
        for row in rows:
            values = found["tables"][table][row]
            assert list(values) == lengths and all(
                len(v) == len(found["seeds"]) and min(v) > 0 for v in values.values()
            )
    text = Path(f"results/tables/{name}_ablations.md").read_text(encoding="utf-8")
    assert all(f"## {table}" in text for table in ablation.tables) and "the embedded sky" in text
    for figure in ("ablations", "ablation_strips"):
        assert Path(f"results/{name}/figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
    print(text)
    sys.exit()
sky = params.dataset(experiment.dataset).procedural
report = json.loads(Path(f"results/{name}_fvd.json").read_text(encoding="utf-8"))

expected = {
    "experiment", "fvd", "protocol", "n", "baselines", "motion", "data", "detector", "checkpoints", "sampling",
    "versions", "also", "over_time",
}  # fmt: skip
assert expected <= report.keys(), expected - report.keys()
assert report["experiment"] == name
assert report["fvd"] > 0
assert report["n"] == min(experiment.sampling.videos, sky.train, sky.test)
assert {"name", "frames", "stride"} <= report["protocol"].keys()
assert {"floor", "static", "self_static", "noise"} <= report["baselines"].keys()
assert all(value >= 0 for value in report["baselines"].values())
assert report["motion"]["samples"] > 0 and report["motion"]["test"] > 0
for found in (report["over_time"], *([report["motion_only"]["over_time"]] if "motion_only" in report else [])):
    assert list(found) == ["sharpness", "contrast", "mean", "motion"]
    assert all(len(ratios) == report["protocol"]["frames"] for ratios in found.values())
if experiment.metrics.motion_only:
    apart = report["motion_only"]
    assert apart["n"] == min(experiment.metrics.motion_only, report["n"], sky.test)
    assert min(apart[key] for key in ("fvd", "static", "floor")) > 0
assert report["data"]["source"] == "procedural" and len(report["data"]["sha256"]) == 64
assert report["data"]["dropped"] == 0
assert len(report["detector"]["sha256"]) == 64
for part in ("content", "motion"):
    facts = getattr(experiment, part).training
    assert report["checkpoints"][part]["step"] == facts.steps and len(report["checkpoints"][part]["sha256"]) == 64
assert {"sampler", "steps", "eta", "precision", "seeds"} <= report["sampling"].keys()

samples = Path(f"results/{name}/samples")
videos = sorted(samples.glob("video_*.mp4"))
assert len(videos) == min(experiment.sampling.sheet, experiment.sampling.videos)
assert all(video.stat().st_size > 500 for video in videos)
assert (samples / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
assert (samples / "preview.webp").read_bytes().startswith(b"RIFF")
assert (samples / "samples.h5").is_file()
assert Path(f"results/{name}/figures/nearest.png").read_bytes().startswith(b"\x89PNG")
print(f"{name}: fvd {report['fvd']:.1f} on n = {report['n']}, {len(videos)} mp4s, all keys there")
