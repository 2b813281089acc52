"""What the machine has, and what follows from it."""

import math
import platform

import pytest
import torch

from vidm import machine
from vidm.machine import control_group_memory


def test_memory_of_a_control_group(tmp_path):
    job = tmp_path / "top" / "slurm" / "job_1"
    job.mkdir(parents=True)
    (tmp_path / "process").write_text("0::/slurm/job_1\n", encoding="utf-8")
    assert control_group_memory(tmp_path / "process", tmp_path / "top") == math.inf
    for folder, limit in ((job, "max"), (job.parent, "1000")):
        (folder / "memory.max").write_text(f"{limit}\n", encoding="utf-8")
        (folder / "memory.current").write_text("700\n", encoding="utf-8")
        (folder / "memory.stat").write_text("anon 400\ninactive_file 200\n", encoding="utf-8")
    assert control_group_memory(tmp_path / "process", tmp_path / "top") == 500  # the file cache is given back


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="asks for AVX-512")
def test_a_cpu_computes_in_bf16_where_it_has_avx_512():
    assert machine.has_bf16("cpu") == torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@pytest.mark.parametrize(
    "kind, asked, allowed",
    [("cuda", "bf16", [True, True]), ("cuda", "fp32", [False, False]), ("cpu", "bf16", [False, True])],
)
def test_a_gpu_has_tf32_beside_bf16_alone(kind, asked, allowed, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda kind: True)
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    assert before == [False, True], "PyTorch's default"
    try:
        machine.set_tf32(torch.device(kind), asked)
        assert [place.allow_tf32 for place in places] == allowed
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def test_a_gpu_s_batches_are_prepared_beside_it(monkeypatch):
    for have, processes, loaders in ((16, 1, 8), (16, 4, 3), (8, 1, 7), (2, 1, 1), (1, 1, 0), (4, 8, 0)):
        monkeypatch.setattr(machine, "cores", lambda have=have: have)
        assert machine.loaders(torch.device("cuda"), processes) == loaders
        assert machine.loaders(torch.device("cpu"), processes) == 0


@pytest.mark.parametrize("there", [False, True])
def test_bf16_is_used_where_the_machine_has_it_and_noted(there, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda kind: there)
    device, x = torch.device("cpu"), torch.ones(2, 2)
    for asked, used in (("fp32", torch.float32), ("bf16", torch.bfloat16 if there else torch.float32)):
        with machine.autocast(device, asked):
            assert (x @ x).dtype == used
        assert machine.precision(device, asked) == {torch.float32: "fp32", torch.bfloat16: "bf16"}[used]
