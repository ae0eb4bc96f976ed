from __future__ import annotations

import math

import pytest
import torch

from hirl.planning import step_benchmark
from hirl.planning.machine import Machine, backbone_family, find_machine, matmul_precision, measure_step


def test_missing_rates_fall_back_to_others():
    machine = Machine("any", 1.0, {"fp32": 1.0, "bf16": 2.0}, None)
    assert machine.matmul_flops("tf32") == machine.matmul_flops("fp32") == 1e12
    assert machine.matmul_flops("auto") == machine.matmul_flops("bf16") == 2e12


def test_every_listed_machine_has_an_mfu_for_both_families():
    for name in ("h200", "h100", "a100"):
        machine = find_machine(name)
        assert set(machine.tflops) == {"bf16", "tf32", "fp32"}
        assert {family: 0 < mfu < 1 for family, mfu in machine.mfu.items()} == {"vit": True, "resnet": True}


def test_convolutions_in_fp32_run_in_tf32(tiny_run):
    resnet, vit = tiny_run("simsiam"), tiny_run("dino")
    assert (backbone_family(resnet), backbone_family(vit)) == ("resnet", "vit")
    assert matmul_precision("fp32", resnet) == "tf32"
    assert matmul_precision("fp32", vit) == "fp32"
    assert matmul_precision("bf16", resnet) == "bf16"


@pytest.mark.usefixtures("one_thread")  # which it sets, and would leave
def test_this_machine_is_measured():
    here = find_machine("here")
    assert here.mfu is None
    assert min(here.tflops.values()) > 1e-4  # any processor of this century
    assert here.memory_gib > 0.5


def test_a_step_is_measured_unless_it_does_not_fit_into_memory(tiny_run, monkeypatch):
    assert 0 < measure_step(tiny_run("simsiam"), 4) < math.inf

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step_benchmark, "StepBenchmark", too_large)
    assert measure_step(tiny_run("simsiam"), 4) == math.inf
