"""Training and sampling on what does not fit: one line that names it, exit code 2, and nothing overwritten."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, TRAINING

from vidm.data.store import StoreWriter
from vidm.training.checkpoint import Checkpoints

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def frame_store(path: Path, size: int = 16, length: int = 6) -> Path:
    rng = np.random.default_rng(0)
    with StoreWriter(path, size, size, {}, origin="raw") as writer:
        for k in range(2):
            frames = rng.integers(256, size=(length, size, size, 3), dtype=np.uint8)
            writer.add(frames, fps=25, split="train", source=f"clip {k}")
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with a params.yaml and frame stores that fit it, are too short, and too large."""
    folder = tmp_path_factory.mktemp("input")
    part = {"network": TINY | {"attention": []}, "training": TRAINING}
    odd = {"spynet": "none"} | part | {"training": TRAINING | {"batch": 3}}
    quiet = {"dvclive": False, "checkpoint_minutes": 0.0}
    plain = {"dataset": "dots", "frames": 4, "content": part, "motion": part | {"spynet": "none"}, "running": quiet}
    plain["sampling"] = {"sampler": "ddim", "steps": 2, "content_steps": 2, "videos": 2, "batch": 2, "sheet": 1}
    document = {
        "model_version": 1,
        "datasets": {
            "dots": {"raw": "data/raw/dots", "resolution": 16, "min_frames": 4},
            "large": {"raw": "data/raw/large", "resolution": 32, "min_frames": 4},
        },
        "experiments": {
            "dots": plain,
            "large": plain | {"dataset": "large"},
            "short": plain | {"frames": 3},
            "parts": plain | {"running": quiet | {"accumulation": 2}, "motion": odd},
            "gpu": plain | {"running": quiet | {"gpus": 1}},
            "gpus": plain | {"running": quiet | {"gpus": 2}},
            "nodes": plain | {"running": quiet | {"gpus": 0, "nodes": 2}},
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    frame_store(folder / "dots.h5")
    frame_store(folder / "brief.h5", length=3)
    frame_store(folder / "large.h5", size=32)
    return folder


@pytest.fixture
def refused(project, vidm):
    """Run `vidm ...` there: one line, which is returned, exit code 2, and `old` is as it was."""

    def run(*arguments: str) -> str:
        (project / "old").write_bytes(b"old")
        ended = vidm(*arguments, cwd=project)
        assert ended.returncode == 2, ended.stderr
        said = [line for line in ended.stderr.splitlines() if line.startswith("vidm: ")]
        assert len(said) == 1 and ended.stderr.rstrip().endswith(said[0]), ended.stderr
        assert (project / "old").read_bytes() == b"old"
        return said[0]

    return run


CASES = [
    ("dot", "dots.h5", "experiment 'dot' is not in params.yaml; did you mean 'dots'?"),
    ("dots", "none.h5", "none.h5"),
    ("dots", "brief.h5", "brief.h5: no train clip has the 4 frames of experiments.dots.frames"),
    ("dots", "large.h5", "large.h5: frames are 32 pixels, datasets.dots.resolution is 16; extract again"),
    # Said by the first of the two trainings.
    ("parts", "dots.h5", "motion.training.batch: 3 is not a multiple of 1 processes x 2 parts"),
    ("nodes", "dots.h5", "experiments.nodes.running: asks for 2 processes, 1 here; run it by snakemake, or: torchrun"),
    pytest.param("gpu", "dots.h5", "1 GPUs asked for, 0 here; lower running.gpus", marks=no_gpu),
    pytest.param("gpus", "dots.h5", "2 GPUs asked for, 0 here; lower running.gpus", marks=no_gpu),
]


@pytest.mark.parametrize("part", ["content", "motion"])
@pytest.mark.parametrize(("experiment", "frames", "words"), CASES)
def test_training_on_what_does_not_fit(part, experiment, frames, words, refused, project):
    assert words in refused("train", part, experiment, "--frames", frames, "--out", "old")
    assert not list(project.glob("old*/")) and not list(project.glob("*_run.json"))


@no_gpu
def test_a_gpu_that_the_driver_shows_and_torch_does_not(refused, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    said = refused("train", "content", "gpu", "--frames", "dots.h5", "--out", "old")
    assert "running.gpus: 1 asked for, torch sees 0 here; set it to 0 to use the CPU" in said


def test_clips_that_are_too_short_to_be_measured(project, vidm):
    """Known when training begins; it goes on, as training alone needs none."""
    out = project / "measured" / "content.safetensors"
    ended = vidm("train", "content", "dots", "--frames", "dots.h5", "--out", out, "--runs", "measured", cwd=project)
    assert ended.returncode == 0
    assert "no FVD by protocol 'styleganv' (metrics.protocols): fewer than 2 clips of dots.h5 have" in ended.stderr


def test_a_checkpoint_of_another_configuration(refused, project, vidm):
    trained = ["train", "content", "dots", "--frames", "dots.h5", "--out", "content.safetensors", "--runs", "other"]
    assert vidm(*trained, cwd=project).returncode == 0
    (folder,) = (project / "other/dots").glob("content-*")
    checkpoints = Checkpoints(folder, 3)
    _, tensors = checkpoints.newest(3)
    foreign = {name: value for name, value in tensors.items() if name != "model/constant"}
    checkpoints.save(3, foreign, 1.0)
    kept = checkpoints.path(3).read_bytes()
    said = refused("train", "content", "dots", "--frames", "dots.h5", "--out", "old", "--runs", "other")
    assert f"other/dots/{folder.name}/step-000000003.safetensors: made by another version of vidm; remove" in said
    assert checkpoints.path(3).read_bytes() == kept


def test_a_gpu_that_is_too_small(refused, project, vidm, monkeypatch):
    """What torch raises there, since there is none here that could be filled."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    with monkeypatch.context() as patch:
        patch.setattr("vidm.training.run.fit", full)
        said = refused("train", "content", "dots", "--frames", "dots.h5", "--out", "old", "--runs", "full")
    assert (
        "experiments.dots.running: the GPU has no memory for 2 items at once; accumulation: 2 (now 1) has half" in said
    )
    for part in ("content", "motion"):
        out = f"{part}.safetensors"
        assert vidm("train", part, "dots", "--frames", "dots.h5", "--out", out, cwd=project).returncode == 0
    monkeypatch.setattr("vidm.sampling.rollout.Rollout.videos", full)
    weights = ("--content", "content.safetensors", "--motion", "motion.safetensors")
    said = refused("sample", "dots", *weights, "--out", "old-samples")
    assert "experiments.dots.sampling.batch: the GPU has no memory for 2 videos at once; lower it" in said
    assert not list(project.glob("old-samples/*.h5"))


def test_weights_of_another_experiment(refused, project, vidm):
    for part in ("content", "motion"):
        out = f"{part}.safetensors"
        assert vidm("train", part, "dots", "--frames", "dots.h5", "--out", out, cwd=project).returncode == 0
    weights = ("--content", "content.safetensors", "--motion", "motion.safetensors", "--out", "samples")
    said = refused("sample", "large", *weights)
    assert "content.safetensors: trained at 16 pixels, dataset 'large' has 32; train again" in said
    said = refused("sample", "short", *weights)
    assert "motion.safetensors: trained for 4 frames, experiments.short.frames is 3" in said
    said = refused("sample", "dots", *weights[:3], "content.safetensors", "--out", "samples")
    assert "content.safetensors: holds content, not a motion network" in said
    assert not (project / "samples").exists()
