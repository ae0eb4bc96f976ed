from __future__ import annotations

import os

import pytest
import torch

from hirl.distributed.device import (
    choose_device,
    choose_precision,
    float32_matmul,
    resume_threads,
    seed_step,
    send,
)
from hirl.distributed.launch import CHOSEN, THREADS

CPU = torch.device("cpu")


def test_the_gpu_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device() == torch.device(kind)


def test_a_precision_that_is_named_is_taken() -> None:
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_a_cpu_takes_bf16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("auto", CPU) == dtype


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_takes_bf16_where_it_supports_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert choose_precision("auto", torch.device("cuda")) == dtype


def test_the_precision_of_products_comes_back_after_an_error() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    other = "ieee" if before == "tf32" else "tf32"

    def fail_within() -> None:
        with float32_matmul(other):
            assert torch.backends.cuda.matmul.fp32_precision == other
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.fixture
def one_thread_of_two(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a process of one thread on two cores; nobody has set the number."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for variable in (*THREADS, CHOSEN):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("one_thread_of_two")
@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "1", CHOSEN: "1"}], ids=["unset", "chosen"])
def test_a_resumed_training_keeps_its_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert resume_threads(2) == "threads: 2 as before (1 would be chosen now)"
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("one_thread_of_two")
def test_a_number_of_threads_that_the_user_sets_counts_after_an_interruption_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resume_threads(2) == "threads: 1 instead of 2, so it rounds differently from here"
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("one_thread_of_two")
def test_a_training_that_resumes_on_a_smaller_machine_takes_no_more_threads_than_cores() -> None:
    assert resume_threads(3) == "threads: 1 instead of 3, so it rounds differently from here"
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("one_thread")
def test_nothing_is_told_of_a_number_of_threads_that_stays() -> None:
    assert resume_threads(1) == ""


def test_a_tensor_on_the_cpu_is_sent_as_it_is() -> None:
    values = torch.arange(3)
    assert send(values, CPU) is values


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tensor_is_sent_to_the_gpu() -> None:
    sent = send(torch.arange(3), torch.device("cuda"))
    assert (sent.device.type, sent.tolist()) == ("cuda", [0, 1, 2])


def test_every_step_has_its_own_random_numbers() -> None:
    def draw(seed: int, number: int) -> float:
        seed_step(seed, number)
        return torch.rand(()).item()

    assert draw(1, 5) == draw(1, 5)
    assert len({draw(seed, number) for seed in range(4) for number in range(-3, 60)}) == 4 * 63
