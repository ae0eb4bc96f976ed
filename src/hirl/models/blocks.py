"""Switch how a network's repeated blocks run: compiled, or with activation checkpointing to save memory.

Results stay the same except for rounding, and so do the names of parameters and buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from timm.layers import DropPath
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from hirl.config import TrainingConfig

COMPILED_GRAPHS = 256  # limit for the code of a block: a graph per width, stride, image size, and use of gradients


def set_up_blocks(network: nn.Module, config: TrainingConfig) -> None:
    """Compile and checkpoint the blocks as the settings of a training ask.

    Raises:
        ValueError: a setting is on but the network has no blocks.
    """
    for setting, set_up in (("compile", compile_blocks), ("checkpoint_activations", checkpoint_blocks)):
        if getattr(config, setting):
            if not blocks(network):
                raise ValueError(f"{setting} is for the blocks of a ViT or a ResNet: set it to false")
            set_up(network)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return timm's blocks in a network, including those of its momentum or teacher network."""
    return [module for module in network.modules() if isinstance(module, Block | BasicBlock | Bottleneck)]


def compile_blocks(network: nn.Module) -> None:
    """Compile every block in place; blocks of one shape share a graph, so it takes as long as compiling a few.

    A graph is made at the first step that needs it; the second image size gets one graph for all further sizes.
    """
    torch._dynamo.config.recompile_limit = COMPILED_GRAPHS  # beyond torch's 8, a ResNet's blocks would run uncompiled
    for block in blocks(network):
        for layer in block.modules():
            if isinstance(layer, DropPath):  # its rate would need a graph of its own
                layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
        block.forward = torch.compile(block.forward)  # type: ignore[method-assign]


def checkpoint_blocks(network: nn.Module) -> None:
    """Keep only the input of every block, in place, and recompute the rest in the backward pass.

    The recomputation repeats the same random numbers and leaves running statistics alone. Compile blocks before this.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
    """
    for block in blocks(network):
        contexts = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), _copied_buffers(block)


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """Let a block update copies of its running statistics, which are thrown away."""
    buffers = [(layer, *named) for layer in block.modules() for named in layer.named_buffers(recurse=False)]
    for layer, name, buffer in buffers:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in buffers:
            setattr(layer, name, buffer)
