"""The Inception score (Salimans et al. 2016) of videos, from a classifier of the user's.

    IS = exp( mean_x KL( p(y | x) || mean_x p(y | x) ) )

Published scores on UCF-101 are those of one C3D network, fine-tuned on it. Its weights are in no package registry:
without the file there is no score, and no other network stands in for it. A report names the file's hash.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidm.archives import sha256
from vidm.errors import InputError

SPLITS = 10


def inception_score(chances: np.ndarray, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) over `splits` parts of probabilities (N, K), rows that sum to 1.

    Uniform rows give 1, balanced one-hot rows K. Fewer parts are made where N is below 2 a part. Raises InputError.
    """
    chances = np.asarray(chances, np.float64)
    if chances.ndim != 2 or len(chances) < 2 or chances.shape[1] < 2:
        raise InputError(f"an Inception score needs probabilities (N, K) of 2 clips and classes, not {chances.shape}")
    if not (np.isfinite(chances).all() and (chances >= 0).all() and np.allclose(chances.sum(1), 1, atol=1e-4)):
        raise InputError("the classifier's probabilities are not finite, or don't sum to 1")
    scores = []
    for part in np.array_split(chances, max(1, min(splits, len(chances) // 2))):
        # 0 log 0 = 0; where the mean is 0, so is every row.
        ratio = np.divide(part, part.mean(0), out=np.ones_like(part), where=part > 0)
        scores.append(np.exp((part * np.log(ratio)).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def load_classifier(path: Path, device: torch.device, expected: str | None = None) -> tuple[Any, str]:
    """(the TorchScript module, its sha256): clip (B,3,T,H,W) float32 in [-1,1] -> class logits (B,K).

    A TorchScript file is a program: it is run, after its hash was compared with `expected` where one is given.
    Raises InputError: missing, another file, not TorchScript.
    """
    path = Path(path)
    digest = sha256(path)
    if digest is None:
        raise InputError(
            f"{path}: no such file; the Inception score of videos needs a TorchScript classifier of yours there "
            "(for published UCF-101 scores the fine-tuned C3D), and no other network takes its place"
        )
    if expected and digest != expected:
        raise InputError(f"{path}: sha256 is {digest}, expected {expected}; it was not run")
    try:
        with warnings.catch_warnings():
            # torch advises its authors to export anew; users have the files that they have.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning)
            model = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a TorchScript file ({' '.join(str(error).split())[:120]})") from None
    return model.eval(), digest


def checked(model: Any, path: Path, clip: torch.Tensor) -> int:
    """Classes that a classifier gives for a clip (1,3,T,H,W). Raises InputError where that fails."""
    try:
        with torch.inference_mode():
            logits = model(clip)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise InputError(f"{path}: does not take a clip (1,3,T,H,W) of {tuple(clip.shape)} ({reason})") from None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"{path}: gives {shown} for one clip; expected class logits (1, K)")
    return logits.shape[1]
