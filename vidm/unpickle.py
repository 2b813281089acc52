"""Tensors out of pickles that other projects wrote, without running anything that a pickle asks for.

Each format has an unpickler that knows the few names its tensors need and refuses all others. A TorchScript archive
is a zip of a pickle, raw storages and program text: the pickle and the storages are read, the program is not.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


class Arrays(pickle.Unpickler):
    """Reads pickled dictionaries of numpy arrays; any other global is refused."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return np.zeros(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"refused: the pickle asks for {module}.{name}")


class Node:
    """What a scripted module becomes here: its attributes, and nothing that could run."""


class Scripted(pickle.Unpickler):
    """Reads the `data.pkl` of a TorchScript archive of float32 tensors; any other global is refused."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("__torch__."):
            return Node
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch", "FloatStorage"): "FloatStorage",
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"refused: the pickle asks for {module}.{name}")

    def persistent_load(self, pid: tuple) -> np.ndarray:
        kind, dtype, key, _, size = pid
        if (kind, dtype) != ("storage", "FloatStorage") or not str(key).isdigit():
            raise pickle.UnpicklingError(f"refused: the pickle asks for {kind} {dtype} {key}")
        return np.frombuffer(self.archive.read(f"{self.folder}/data/{key}"), "<f4", size)


def _rebuilt(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
    whole = torch.from_numpy(storage[offset : offset + math.prod(size)].astype(np.float32)).view(size)
    if whole.stride() != tuple(stride):
        raise pickle.UnpicklingError("refused: a tensor that is not contiguous")
    return whole


def scripted_tensors(data: bytes) -> Tensors:
    """`a.b.weight` -> tensor, of every module in a TorchScript archive, in the order of its pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        folder = archive.namelist()[0].split("/")[0]
        root = Scripted(archive, folder).load()

    def walk(node: Node, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in vars(node).items():
            if isinstance(value, Node):
                yield from walk(value, f"{prefix}{name}.")
            elif isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value

    return dict(walk(root, ""))


def i3d(data: bytes) -> Tensors:
    """Nested {params, batch_stats} -> `<layer>.conv.weight` (O,I,kT,kH,kW), `<layer>.norm.{bias,mean,var}`."""

    def leaves(tree: Mapping, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                yield from leaves(value, (*prefix, key))
            else:
                yield (*prefix, key), value

    parts = {"Conv_0": "conv", "BatchNorm_0": "norm", "kernel": "weight"}
    tree = Arrays(io.BytesIO(data)).load()
    tensors = {}
    for path, array in [*leaves(tree["params"]), *leaves(tree["batch_stats"])]:
        name = ".".join(parts.get(part, part) for part in path).replace("/", ".")
        tensor = torch.from_numpy(np.array(array, dtype=np.float32))
        kernel = name.endswith("weight")
        tensors[name] = tensor.permute(4, 3, 0, 1, 2).contiguous() if kernel else tensor.flatten()
    return tensors


def spynet(data: bytes) -> Tensors:
    """`spynet.basic_module.L.basic_module.2i.*` -> `basic_module.L.basic_module.i.conv.*`, L = 0 the coarsest.

    The original counts its activations as layers, so convolutions sit at 0, 2, 4, 6, 8. Its mean and std
    buffers are ImageNet's and belong to the code.
    """
    tensors = {}
    for key, tensor in torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["params"].items():
        if key.startswith("spynet.basic_module."):
            _, _, level, _, layer, kind = key.split(".")
            new = f"basic_module.{level}.basic_module.{int(layer) // 2}.conv.{kind}"
            tensors[new] = tensor.float().contiguous()
    return tensors


def inception(data: bytes) -> Tensors:
    """`net.layers.<layer>.{weight,beta,mean,var}` -> `<layer>.conv.weight`, `<layer>.norm.{bias,mean,var}`."""
    parts = {"weight": "conv.weight", "beta": "norm.bias", "mean": "norm.mean", "var": "norm.var"}
    tensors = {}
    for name, tensor in scripted_tensors(data).items():
        layer, _, kind = name.removeprefix("net.layers.").rpartition(".")
        tensors[f"{layer}.{parts[kind]}"] = tensor
    return tensors
