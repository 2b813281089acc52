"""A peer at the same cost: video-diffusion-pytorch on the same frames, for the same CPU minutes, by the same report.

    snakemake --cores all results/sky_fvd.json
    python benchmarks/peer.py                              # the experiment sky, 128 videos
    python benchmarks/peer.py --minutes 1 --videos 4       # whether it runs

The peer is a diffusion model of whole clips, with the network, loss, learning rate and average of its README. Its own
size (36 M parameters, batches of 64) takes minutes a step on a CPU; SIZE and BATCH are smaller, so that there are
hundreds of steps. It has one sampler, ancestral, that takes all steps of its diffusion; TIMESTEPS are fewer than its
1000, so that 128 videos take no day. All of this is printed beside the result. It computes in fp32: in bf16 its
convolutions, which are three-dimensional, took a CPU eight times as long.

Its learning rate is meant for 700 000 steps. Another one (--lr) may suit hundreds better; its files lie beside.

It has an environment of its own (--env), made at the first call. Of its dependencies those for text and for GIF files
are left out. All that is made lies in benchmarks/results/peer/; the same command goes on after an interruption and
loses at most a minute of training or one batch of samples. Minutes are those of all threads together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np

RESULTS = Path("benchmarks/results/peer")
PEER = "video-diffusion-pytorch==0.7.0"
# What it imports for videos without text, beside torch.
NEEDED = ["einops==0.8.2", "einops-exts==0.0.4", "rotary-embedding-torch==0.9.1"]
PINNED = ["torch", "numpy", "h5py", "tqdm", "pillow"]  # by constraints.txt
FRAMES = 16
# Arguments of its Unet3D. Its README has dim 64, multipliers (1, 2, 4, 8) and the default of 8 heads of 32 channels.
SIZE = {"dim": 32, "dim_mults": [1, 2, 4], "attn_heads": 4, "attn_dim_head": 16}
BATCH = 2  # clips a step; its README has 32, twice a step
TIMESTEPS = 50
LR = 1e-4
# Its Trainer's average: a copy of the network up to step 2000, then its EMA; every tenth step.
EMA, EMA_FROM, EMA_EVERY = 0.995, 2000, 10
SAMPLED = 8  # videos sampled at once
KEPT_EVERY = 60  # CPU seconds


# In the peer's environment: torch, numpy, h5py and the peer, nothing of vidm.


def inside(folder: Path, videos: int) -> None:
    """Train by the settings in `folder` and sample; write samples-{videos}.npy and samples-{videos}.json there."""
    # torchvision is for its GIF files and Trainer. The index's build of it does not load beside a torch for CPUs.
    sys.modules["torchvision"] = stand_in = types.ModuleType("torchvision")
    stand_in.transforms, stand_in.utils = types.SimpleNamespace(ToTensor=lambda: None), None
    import torch

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    about = train(folder, settings)
    clips, about["sampling_cpu_seconds"] = sample(folder, settings, videos)
    about["threads"] = torch.get_num_threads()
    with written(folder / f"samples-{videos}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, clips)
    with written(folder / f"samples-{videos}.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")


class written:
    """A temporary name, renamed to `path` at a clean exit: what is there is whole. As vidm's, which is not here."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def networks(settings: dict):
    """Its diffusion, with random weights of the seed, and the one that holds the average."""
    import torch
    from video_diffusion_pytorch import GaussianDiffusion, Unet3D

    def made():
        torch.manual_seed(settings["seed"])
        network = Unet3D(**settings["size"])
        facts = {"image_size": settings["resolution"], "num_frames": FRAMES, "timesteps": settings["timesteps"]}
        return GaussianDiffusion(network, loss_type="l1", **facts)

    return made(), made()


def train_clips(path: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """All frames of the store, and (first frame, number of starts) of each train clip that is long enough."""
    import h5py

    with h5py.File(path, "r") as file:
        starts, lengths, splits = (file[f"clip_{field}"][:] for field in ("start", "length", "split"))
        clips = [
            (int(start), int(length) - FRAMES + 1)
            for start, length, split in zip(starts, lengths, splits, strict=True)
            if split.decode() == "train" and length >= FRAMES
        ]
        return file["frames"][:], clips


def batch_of(frames: np.ndarray, clips: list[tuple[int, int]], settings: dict, step: int) -> np.ndarray:
    """Random windows, half of them mirrored where the experiment's are: (B, 3, T, H, W) in [0, 1]."""
    rng = np.random.default_rng([settings["seed"], step])
    drawn = []
    for _ in range(settings["batch"]):
        first, choices = clips[rng.integers(len(clips))]
        at = first + int(rng.integers(choices))
        window = frames[at : at + FRAMES]
        drawn.append(window[:, :, ::-1] if settings["flip"] and rng.integers(2) else window)
    return np.stack(drawn).transpose(0, 4, 1, 2, 3).astype(np.float32) / 255


def train(folder: Path, settings: dict) -> dict[str, float]:
    """Steps until the CPU seconds are spent; model.pt holds the state, and from then on the average that is sampled."""
    import torch
    from video_diffusion_pytorch.video_diffusion_pytorch import EMA as Average

    model, average = networks(settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"])
    ema, path, budget = Average(EMA), folder / "model.pt", settings["cpu_seconds"]
    step, spent, wall, losses = 0, 0.0, 0.0, []
    if path.exists():
        state = torch.load(path, weights_only=True)
        for part, values in zip((model, average, optimizer), state["parts"], strict=True):
            part.load_state_dict(values)
        step, spent, wall, losses = state["step"], state["spent"], state["wall"], state["losses"]
        if spent < budget:
            print(f"peer: training goes on from step {step}", file=sys.stderr, flush=True)
    before, resumed, kept = spent, step, spent
    began, clock, spoken = time.process_time(), time.monotonic(), time.monotonic()
    frames, clips = train_clips(settings["frames"])
    while spent < budget:
        torch.manual_seed(settings["seed"] * 1_000_003 + step)
        loss = model(torch.from_numpy(batch_of(frames, clips, settings, step)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % EMA_EVERY == 0:
            if step < EMA_FROM:
                average.load_state_dict(model.state_dict())
            else:
                ema.update_model_average(average, model)
        losses.append(float(loss.detach()))
        step, spent = step + 1, before + time.process_time() - began
        if time.monotonic() - spoken > 10 or spent >= budget:
            spoken = time.monotonic()
            passed = spoken - clock
            left = max(0.0, budget - spent) * passed / max(spent - before, 1e-9)
            print(
                f"peer: step {step}, {spent / 60:.1f} of {budget / 60:.1f} CPU min, "
                f"{60 * (step - resumed) / passed:.1f} steps/min, {left / 60:.1f} min left, "
                f"loss {np.mean(losses[-50:]):.4f}",
                file=sys.stderr,
                flush=True,
            )
        if spent - kept > KEPT_EVERY or spent >= budget:
            kept = spent
            parts = [part.state_dict() for part in (model, average, optimizer)]
            now = {"step": step, "spent": spent, "wall": wall + time.monotonic() - clock, "losses": losses}
            with written(path) as temporary:
                torch.save({"parts": parts} | now, temporary)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "loss": float(np.mean(losses[-50:])),
        "training_cpu_seconds": spent,
        "training_wall_seconds": wall + time.monotonic() - clock,
    }


def sample(folder: Path, settings: dict, videos: int) -> tuple[np.ndarray, float]:
    """Videos of the average by its own sampler, (N, T, H, W, 3) uint8, and the CPU seconds that they took."""
    import torch

    _, average = networks(settings)
    average.load_state_dict(torch.load(folder / "model.pt", weights_only=True)["parts"][1])
    average.eval()
    clips, seconds, clock, done = [], 0.0, time.monotonic(), 0
    for first in range(0, videos, SAMPLED):
        n = min(SAMPLED, videos - first)
        path = folder / "sampled" / f"{first:05d}-{n}.npz"
        if not path.exists():
            torch.manual_seed(settings["seed"] * 1_000_003 + first)
            began = time.process_time()
            made = average.sample(batch_size=n).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 4, 1).numpy()
            with written(path) as temporary, temporary.open("wb") as file:
                np.savez(file, videos=made, seconds=time.process_time() - began)
            done += n
            rate = 60 * done / (time.monotonic() - clock)
            print(
                f"peer: {first + n}/{videos} videos, {rate:.1f}/min, {(videos - first - n) / rate:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
        with np.load(path) as part:
            clips.append(part["videos"])
            seconds += float(part["seconds"])
    return np.concatenate(clips), seconds


# In the project's environment.


def environment(folder: Path) -> Path:
    """The Python that has the peer; the environment is made where it is not whole."""
    python, whole = folder / "bin" / "python", folder / "peer.json"
    wanted = json.dumps([PEER, *NEEDED, *PINNED])
    if whole.exists() and whole.read_text(encoding="utf-8") == wanted:
        return python
    print(f"peer: {PEER} goes into {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
    subprocess.run([*pip, *PINNED], check=True)  # torch first: nothing else decides which build it is
    subprocess.run([*pip, "--no-deps", PEER, *NEEDED], check=True)
    whole.write_text(wanted, encoding="utf-8")
    return python


def cpu_seconds(log: Path, wall: float | None) -> float | None:
    """CPU seconds of a rule by Snakemake's record of it; None without one, or where it is of a part of `wall`."""
    if not log.exists():
        return None
    with log.open(encoding="utf-8") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    try:
        return float(row["cpu_time"]) if float(row["s"]) >= (wall or 0) else None
    except ValueError:  # too short to be measured
        return None


def cost(name: str) -> tuple[float, str] | None:
    """CPU seconds of the experiment's two trainings, and by what; None where one is not there."""
    from vidm import machine

    seconds, how = 0.0, set()
    for part in ("content", "motion"):
        path = Path(f"models/{name}/{part}_run.json")
        wall = json.loads(path.read_text(encoding="utf-8"))["wall_seconds"] if path.exists() else None
        if wall is None:
            return None
        measured = cpu_seconds(Path(f"logs/benchmarks/train_{part}/{name}.tsv"), wall)
        how.add("of the trainings' records" if measured else "of their wall time on all cores, which is no less")
        seconds += measured or wall * machine.cores()
    return seconds, " and ".join(sorted(how))


def report(frames: Path, samples: Path, videos: int, out: Path) -> dict:
    """`vidm fvd` with baselines, not computed again while it is newer than the samples."""
    if not out.exists() or out.stat().st_mtime < samples.stat().st_mtime:
        arguments = [frames, samples, "--videos", videos, "--baselines", "--json", out]
        subprocess.run([sys.executable, "-m", "vidm.cli", "fvd", *map(str, arguments)], check=True)
    return json.loads(out.read_text(encoding="utf-8"))


def table(name: str, frames: Path, folder: Path, about: dict, ours: Path, videos: int, spent: float | None) -> None:
    """A line for the experiment, the peer and the test clips; a picture of all three."""
    from switches import detail, picture, read

    real = read(frames, "test", FRAMES)
    clips = {"peer": np.load(folder / f"samples-{videos}.npy")}
    reports = {"peer": report(frames, folder / f"samples-{videos}.npy", videos, folder / f"fvd-{videos}.json")}
    minutes = {"peer": (about["training_cpu_seconds"], about["sampling_cpu_seconds"])}
    if ours.exists():
        clips = {name: read(ours, None, FRAMES)} | clips
        reports[name] = report(frames, ours, videos, RESULTS / f"{name}-{videos}.json")
        # Of all videos that the experiment has, where the peer may have fewer.
        sampled = cpu_seconds(Path(f"logs/benchmarks/sample/{name}.tsv"), None)
        minutes[name] = (spent, sampled and sampled * videos / len(clips[name]))
    else:
        print(f"{ours}: not made yet")
    base = reports["peer"]
    print("| | FVD | standard error | motion | detail 0 / test | detail 15 / own 0 | CPU min training | sampling |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row, made in clips.items():
        first, last = detail(made[:, 0]), detail(made[:, -1])
        error = (reports[row].get("interval") or {}).get("standard_error")
        times = (f"{s / 60:.1f}" if s else "-" for s in minutes[row])
        print(
            f"| {row} | {reports[row]['fvd']:.0f} | {'-' if error is None else f'{error:.0f}'} "
            f"| {reports[row]['motion']['samples']:.2f} | {first / detail(real[:, 0]):.2f} | {last / first:.2f} "
            f"| {' | '.join(times)} |"
        )
    print(
        f"| test clips | {base['baselines']['floor']:.0f} | - | {base['motion']['test']:.2f} | 1 "
        f"| {detail(real[:, -1]) / detail(real[:, 0]):.2f} | - | - |"
    )
    if ours.exists():
        print(f"\nFVD of {name} / peer: {reports[name]['fvd'] / base['fvd']:.2f}; at most 0.5 is the aim")
    picture(clips | {"test clips": real}, folder / "strip.png", min(3, videos))
    print(f"{folder / 'strip.png'}: three videos of each")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: python benchmarks/peer.py sky --videos 128",
    )
    parser.add_argument("experiment", nargs="?", default="sky")
    parser.add_argument("--minutes", type=float, help="CPU minutes of training; default: those of the experiment's two")
    parser.add_argument("--videos", type=int, default=128)
    parser.add_argument("--samples", type=Path, help="default: results/EXPERIMENT/samples/samples.h5")
    parser.add_argument("--env", type=Path, help="folder of the peer's environment; default: beside vidm's weights")
    parser.add_argument("--lr", type=float, default=LR, help=f"default: its README's, {LR:g}")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"clips a step; default: {BATCH}")
    parser.add_argument("--timesteps", type=int, default=TIMESTEPS, help=f"of its diffusion; default: {TIMESTEPS}")
    parser.add_argument("--threads", type=int, help="default: as many as cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", type=Path, metavar="FOLDER", help="used by the script itself, in the environment")
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside, arguments.videos)
        return

    from vidm import config, machine, weights
    from vidm.data.store import FrameStore

    name, videos = arguments.experiment, arguments.videos
    e, known = config.load().experiment(name), cost(name)
    if arguments.minutes is None and known is None:
        parser.error(f"models/{name} has not what both trainings took; train them, or give --minutes")
    frames = Path(f"data/frames/{e.dataset}.h5")
    with FrameStore(frames) as store:
        resolution, data = store.resolution, store.sha256
    settings = {
        "cpu_seconds": round(known[0] if arguments.minutes is None else 60 * arguments.minutes, 1),
        "size": SIZE,
        "batch": arguments.batch,
        "timesteps": arguments.timesteps,
        "lr": arguments.lr,
        "seed": arguments.seed,
        "flip": e.motion.training.flip,
        "resolution": resolution,
        "data": data,
        "frames": str(frames),
        "threads": arguments.threads or machine.cores(),
    }
    digest = hashlib.sha256(json.dumps([PEER, settings], sort_keys=True).encode()).hexdigest()[:8]
    folder = RESULTS / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    done = folder / f"samples-{videos}.json"
    if not done.exists():
        python = environment(arguments.env or weights.folder() / "peer")
        # -P and -E: neither this folder nor PYTHONPATH hides the environment's own modules.
        command = [python, "-P", "-E", "-W", "ignore", __file__, "--inside", folder, "--videos", str(videos)]
        quiet = {"TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(settings["threads"])}
        subprocess.run(command, check=True, env=os.environ | quiet)
    about = json.loads(done.read_text(encoding="utf-8"))
    if known:
        print(f"{name}: {known[0] / 60:.1f} CPU min of training, {known[1]}")
    print(
        f"peer: {PEER}, {about['parameters'] / 1e6:.2f} M parameters {SIZE}, {about['steps']} steps of "
        f"{settings['batch']} clips, lr {settings['lr']:g}, loss {about['loss']:.3f}\n"
        f"peer: a diffusion of {settings['timesteps']} steps (its README has 1000), all of them in sampling; fp32, "
        f"{about['threads']} threads\n{videos} videos each, {FRAMES} frames, {frames}\n"
    )
    ours = arguments.samples or Path(f"results/{name}/samples/samples.h5")
    table(name, frames, folder, about, ours, videos, known and known[0])


if __name__ == "__main__":
    main()
