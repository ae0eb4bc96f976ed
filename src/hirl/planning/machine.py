"""Read the rates of a machine from config/hardware.yaml, or measure those of this machine."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from statistics import median

import yaml

from hirl.config import CONFIG_ROOT, RunConfig

HARDWARE = CONFIG_ROOT / "hardware.yaml"
MEASURED_IMAGES = 128  # the largest batch of the steps that are timed on this machine


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind, or this machine's cores.

    Attributes:
        memory_gib: memory of one GPU.
        tflops: TFLOP/s of large matrix products, by precision.
        mfu: model FLOPs utilisation by backbone family ("vit", "resnet"); None: to be measured run by run.
    """

    name: str
    memory_gib: float
    tflops: dict[str, float]
    mfu: dict[str, float] | None

    def matmul_flops(self, precision: str) -> float:
        """Return the FLOP/s of large matrix products; "auto" takes the fastest precision, a missing tf32 is fp32."""
        if precision == "auto":
            return 1e12 * max(self.tflops.values())
        if precision == "tf32":
            return 1e12 * self.tflops.get("tf32", self.tflops["fp32"])
        return 1e12 * self.tflops[precision]


def find_machine(name: str) -> Machine:
    """Return a machine of config/hardware.yaml, or "here": this one's GPU, or one core of its processor, measured.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "here":
        return _measure_this_machine()
    known = yaml.safe_load(HARDWARE.read_text())
    if name not in known:
        raise ValueError(f"--gpu {name} is unknown: choose {', '.join(known)}, here, or add it to config/hardware.yaml")
    return Machine(name=name, **known[name])


def _measure_this_machine() -> Machine:
    import torch

    from hirl.distributed.device import choose_device
    from hirl.planning.step_benchmark import measure_matmul_flops

    device = choose_device()
    precisions = ["bf16", "fp32"]
    if device.type == "cuda":
        precisions.append("tf32")
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        torch.set_num_threads(1)  # a job of the workflow has one core
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tflops = {precision: measure_matmul_flops(precision, device) / 1e12 for precision in precisions}
    return Machine("here", memory / 2**30, tflops, None)


def measure_mfu(config: RunConfig, operations: float, machine: Machine, plugins: tuple[str, ...] = ()) -> float:
    """Return the model FLOPs utilisation that real steps of a run reach on this machine: the best of five.

    Args:
        operations: floating-point operations of a step per image.
        machine: this machine, as `find_machine("here")` measured it.
    """
    from hirl.distributed.device import choose_device
    from hirl.planning.step_benchmark import StepBenchmark, with_training

    batch_size = min(config.training.batch_size, MEASURED_IMAGES)
    benchmark = StepBenchmark(with_training(config, batch_size=batch_size), choose_device(), plugins)
    benchmark.seconds(2)
    seconds = min(benchmark.seconds(1) for _ in range(5))
    return batch_size * operations / seconds / machine.matmul_flops(matmul_precision(config.training.precision, config))


def measure_step(config: RunConfig, batch_size: int, plugins: tuple[str, ...] = ()) -> float:
    """Return the seconds of a step on this machine: the median of three, after two; infinite if memory is too small."""
    import torch

    from hirl.distributed.device import choose_device
    from hirl.planning.step_benchmark import StepBenchmark, with_training

    try:
        benchmark = StepBenchmark(with_training(config, batch_size=batch_size), choose_device(), plugins)
        benchmark.seconds(2)
        return median(benchmark.seconds(1) for _ in range(3))
    except torch.OutOfMemoryError:
        return math.inf


def matmul_precision(precision: str, config: RunConfig) -> str:
    """Return the precision of a network's matrix products: torch computes fp32 convolutions on a GPU in TF32."""
    if precision == "fp32" and backbone_family(config) == "resnet":
        return "tf32"
    return precision


def backbone_family(config: RunConfig) -> str:
    """Return the family of a run's backbone, "vit" or "resnet"."""
    return "vit" if config.backbone.name.startswith("vit") else "resnet"
