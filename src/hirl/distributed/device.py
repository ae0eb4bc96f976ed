"""The device, precision, threads and random seeds of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from hirl.distributed.launch import may_choose_threads

# Knuth's multipliers: neighbouring seeds and steps become far-apart seeds of the generator
MIXERS = (6364136223846793005, 1442695040888963407)


def choose_device() -> torch.device:
    """Return the GPU if there is one, else the CPU.

    On a CPU it also makes glibc's malloc keep the memory of a step for the next one, instead of returning it to the
    system: freeing a large block raises malloc's threshold for that.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.empty(2**23 - 2**10)  # just under 32 MiB, the largest block that raises the threshold
    return torch.device("cpu")


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast; "auto" is bf16 if the processor has instructions for it, else fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def float32_matmul(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Set how a GPU multiplies float32 matrices within the context, in full precision or in TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def resume_threads(before: int) -> str:
    """Compute on as many threads as before an interruption, unless their number is set or there are fewer cores.

    The number of threads decides in which order a CPU sums, and so how it rounds.

    Returns:
        What to tell the user; empty if the number is the same anyway.
    """
    now = torch.get_num_threads()
    if now == before:
        return ""
    if may_choose_threads() and before <= (os.cpu_count() or 1):
        torch.set_num_threads(before)
        return f"threads: {before} as before ({now} would be chosen now)"
    return f"threads: {now} instead of {before}, so it rounds differently from here"


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from main memory to a device, without waiting for the device."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def seed_step(seed: int, number: int) -> None:
    """Seed torch's default generators for one step, from the run's seed and the step's number alone.

    A resumed training then draws the same views, masks, dropped paths and negative paths as one that was never killed.
    """
    torch.manual_seed((seed * MIXERS[0] + number * MIXERS[1]) % 2**63)
