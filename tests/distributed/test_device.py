from __future__ import annotations

import pytest
import torch

from hirl.distributed.device import choose_device, choose_precision, float32_matmul, seed_step, send

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
