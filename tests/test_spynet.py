"""The pretrained SpyNets against a motion that is known: the wind of the embedded sky."""

import numpy as np
import pytest
import torch

from vidm import weights
from vidm.config import SPYNETS
from vidm.data.procedural import Scene
from vidm.errors import InputError
from vidm.models.spynet import SpyNet


@pytest.fixture(scope="module", params=SPYNETS.values())
def spynet(request):
    try:
        tensors, _ = weights.load(request.param)
    except InputError as error:
        pytest.skip(f"no pretrained SpyNet: {error}")
    network = SpyNet()
    network.load_pretrained(tensors)
    return network.eval()


def endpoint_errors(network: SpyNet, size: int, scenes: int = 8) -> tuple[float, float]:
    """Mean endpoint error in pixels, of the network and of zero flow, on opaque cloud: frame 0 to frame 2."""
    found, still, weight = 0.0, 0.0, 0.0
    for index in [k for k in range(60) if Scene(0, "test", k).kind in ("cumulus", "altocumulus")][:scenes]:
        scene = Scene(0, "test", index, size=size)
        a, b = (torch.from_numpy(scene.frame(n).astype(np.float32) / 255).permute(2, 0, 1)[None] for n in (0, 2))
        truth, mask = scene.flow(0, 2), scene.mask(0, 2)
        with torch.inference_mode():
            flow = network(a, b)[0].numpy()
        found += (np.linalg.norm(flow - truth, axis=0) * mask).sum()
        still += (np.linalg.norm(truth, axis=0) * mask).sum()
        weight += mask.sum()
    return found / weight, still / weight


@pytest.mark.parametrize("size", [64, 128])
def test_it_sees_the_wind(spynet, size):
    found, still = endpoint_errors(spynet, size)
    assert still > size / 64  # there is motion to see
    assert found < still / 2


def test_swapped_frames_are_caught(spynet):
    """The known mistake, flow in the wrong direction, is worse than no flow at all."""
    scene = Scene(0, "test", 0, size=64)
    a, b = (torch.from_numpy(scene.frame(n).astype(np.float32) / 255).permute(2, 0, 1)[None] for n in (0, 2))
    truth, mask = scene.flow(0, 2), scene.mask(0, 2)
    with torch.inference_mode():
        wrong = spynet(b, a)[0].numpy()
    assert (np.linalg.norm(wrong - truth, axis=0) * mask).sum() > (np.linalg.norm(truth, axis=0) * mask).sum()
