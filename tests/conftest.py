import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidm import cli, config
from vidm.data.decoding import ffmpeg_program, ffmpeg_version
from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.machine import cores


def pytest_report_header() -> str:
    """Which ffmpeg the package takes, and with it the tests."""
    try:
        return f"{ffmpeg_version()}: {ffmpeg_program()}"
    except InputError as error:
        return str(error)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first, so that no process is left with one when the others have ended."""
    long = {item.path for item in items if item.get_closest_marker("pipeline") or item.get_closest_marker("slurm")}
    items.sort(key=lambda item: item.path not in long)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, at most four: the tests of a cluster mostly wait."""
    return min(4, cores() + 1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference tensors and real footage that some checkouts have beside them."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ folder with reference data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def golden() -> dict:
    """Tensors of the official code; tests/golden/README.md says which."""
    tensors = load_file(Path(__file__).parent / "golden" / "official_parts.safetensors")
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}


@pytest.fixture(scope="session")
def q(golden) -> dict:
    """Those of the official diffusion."""
    return {key[2:]: value for key, value in golden.items() if key.startswith("q/")}


@pytest.fixture(scope="session")
def detector():
    """The real detector; a skip where its weights can't be had."""
    from vidm.metrics.i3d import load_i3d

    try:
        return load_i3d()
    except InputError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def vidm(monkeypatch, capfd):
    """Run `vidm ...` in this process, from the project's root: a fresh one takes seconds to load torch."""

    def run(*arguments: object, cwd: Path = Path(__file__).parents[1]) -> Ended:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["vidm", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        return Ended(ended.value.code or 0, *capfd.readouterr())

    return run


TINY = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [8], "head_channels": 32, "groups": 8}
TRAINING = {"steps": 3, "batch": 2, "lr": 1e-3, "warmup": 1}


@pytest.fixture(scope="module")
def params():
    part = {"network": TINY, "training": TRAINING}
    experiment = {"dataset": "dots", "frames": 4, "content": part, "motion": part | {"spynet": "none"}}
    experiment["running"] = {"dvclive": False}  # it takes a second; tests/test_live.py has it
    experiment["sampling"] = {"sampler": "ddim", "steps": 2, "content_steps": 2, "videos": 2, "batch": 2, "sheet": 1}
    return config.resolve(
        {
            "model_version": 1,
            "datasets": {"dots": {"raw": "data/raw/dots", "resolution": 16, "min_frames": 4}},
            "experiments": {"dots": experiment, "other": experiment | {"frames": 3}},
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "dots.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, 16, 16, {}, origin="raw") as writer:
        for k in range(4):
            frames = rng.integers(256, size=(6, 16, 16, 3), dtype=np.uint8)
            writer.add(frames, fps=25, split="train", source=f"clip {k}")
    return path
