"""Count the operations and bytes that one image costs a run's networks, in real training steps on this CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hirl.config import RunConfig
from hirl.planning.step_benchmark import StepBenchmark, with_training

BATCH_SIZES = (2, 4)  # of the counted steps; their difference is the cost of the additional images


@dataclass(frozen=True)
class Counts:
    """The operations and bytes that one image costs a run's networks, and the size of the networks.

    Attributes:
        step: floating-point operations of a training step per image, without those that HIRL adds.
        forward: floating-point operations of the backbone on an evaluated image.
        activations: bytes per image that autograd keeps for the backward pass.
        static: bytes of weights, buffers, gradients, optimiser state, and what a step keeps for any batch size.
        weights: bytes of the backbone.
        checkpoint: bytes of a checkpoint without the tree.
        width: channels of a feature.
        embedding_dim: D.
    """

    step: float
    forward: float
    activations: float
    static: int
    weights: int
    checkpoint: int
    width: int
    embedding_dim: int


def count(config: RunConfig, plugins: tuple[str, ...] = ()) -> Counts:
    """Build a baseline's networks, take steps of two batch sizes on this CPU, and count operations and bytes."""
    precision = "fp32" if config.training.precision == "fp32" else "bf16"
    operations, saved = [], []
    for batch_size in BATCH_SIZES:
        settings = with_training(config, batch_size=batch_size, precision=precision)
        benchmark = StepBenchmark(settings, torch.device("cpu"), plugins)
        step_operations, step_bytes = _count_step(benchmark)
        operations.append(step_operations)
        saved.append(step_bytes)
    few, more = BATCH_SIZES
    activations = (saved[1] - saved[0]) / (more - few)

    method = benchmark.method
    trained = sum(value.numel() for group in benchmark.optimizer.param_groups for value in group["params"])
    optimizer_state = trained * (8 if config.training.optimizer.name == "adamw" else 4)
    networks = sum(value.nbytes for value in (*method.parameters(), *method.buffers()))
    return Counts(
        step=(operations[1] - operations[0]) / (more - few),
        forward=_count_forward(method.backbone, config.data.image_size),
        activations=activations,
        static=int(networks + 4 * trained + optimizer_state + saved[0] - few * activations),
        weights=sum(value.nbytes for value in method.backbone.parameters()),
        checkpoint=networks + optimizer_state,
        width=method.backbone.num_features,
        embedding_dim=method.embedding_dim,
    )


def _count_step(benchmark: StepBenchmark) -> tuple[int, int]:
    """Return the operations of a step, and the bytes that autograd keeps in it beside the parameters."""
    parameters = {value.untyped_storage().data_ptr() for value in benchmark.method.parameters()}
    saved: dict[int, int] = {}

    def save(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return value

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(save, lambda value: value):
        benchmark.step()
    return counter.get_total_flops(), sum(saved.values())


def _count_forward(backbone: nn.Module, image_size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    return counter.get_total_flops()
