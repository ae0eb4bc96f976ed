"""Device, precision and seeds."""

from __future__ import annotations

import torch
from torch import Tensor

MIXERS = (6364136223846793005, 1442695040888963407)  # Knuth's; they spread neighbouring seeds and steps apart


def choose_device() -> torch.device:
    """The GPU where there is one, else the CPU.

    On a CPU, glibc's malloc is made to keep a step's memory for the next, instead of handing it back to the system.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.empty(2**23 - 2**10)  # just under the 32 MiB to which malloc adapts its thresholds when a block is freed
    return torch.device("cpu")


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of networks under autocast; "auto" is bf16 where the processor multiplies in it."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def send(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on a device, with no wait for what the device is doing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def seed_step(seed: int, number: int) -> None:
    """Seeds torch's default generators for one step, from nothing but the run's seed and the step's number.

    Views, masks, drop path and negative paths of a step are then the same after a resume as in one go.
    """
    torch.manual_seed((seed * MIXERS[0] + number * MIXERS[1]) % 2**63)
