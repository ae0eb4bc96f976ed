"""How a network's repeated blocks are run: compiled, or computed again in the backward pass to save memory.

What they compute stays the same, but for rounding, and so do the names of parameters and buffers.
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

GRAPHS = 256  # that torch may compile of one block's code: per width, stride and size of image; with gradient, without


def set_up_blocks(network: nn.Module, config: TrainingConfig) -> None:
    """Compiles the blocks and has them computed again in the backward pass, as a training's settings ask.

    Raises:
        ValueError: a setting is on, but the network has no blocks.
    """
    for setting, set_up in (("compile", compile_blocks), ("checkpoint_activations", checkpoint_blocks)):
        if getattr(config, setting):
            if not blocks(network):
                raise ValueError(f"{setting} is for the blocks of a ViT or a ResNet: set it to false")
            set_up(network)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Timm's blocks in a network, those of its momentum or teacher network among them."""
    return [module for module in network.modules() if isinstance(module, Block | BasicBlock | Bottleneck)]


def compile_blocks(network: nn.Module) -> None:
    """torch.compile of every block, in place: blocks of one shape share a graph, so it takes as long as a few of them.

    A graph is made at the first step that needs it. The second size of image gets one for any size.
    """
    torch._dynamo.config.recompile_limit = GRAPHS  # its 8 are too few for a ResNet; beyond, blocks would run uncompiled
    for block in blocks(network):
        for layer in block.modules():
            if isinstance(layer, DropPath):  # each has a rate, for which it would need a graph, and draws of its own
                layer.forward = torch.compiler.disable(layer.forward)
        block.forward = torch.compile(block.forward)


def checkpoint_blocks(network: nn.Module) -> None:
    """Keeps the input of every block alone, in place; the rest is computed again when its gradient is.

    Random numbers are drawn as they were, and running statistics move once. A compiled block is to be compiled before.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
    """
    for block in blocks(network):
        contexts = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Those of the first time a block is computed, and of the second."""
    return nullcontext(), _copied_buffers(block)


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """Running statistics move in copies, which are thrown away."""
    buffers = [(layer, *named) for layer in block.modules() for named in layer.named_buffers(recurse=False)]
    for layer, name, buffer in buffers:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in buffers:
            setattr(layer, name, buffer)
