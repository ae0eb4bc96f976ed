"""The encoder of OpenAI's DALL-E, whose tokens BEiT's authors predict, and a safe reader of its published file."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """The encoder of DALL-E's discrete VAE: four groups of bottlenecks with max pooling between them, f = 8.

    The published one has 8192 tokens, width 256 and two blocks per group. Parameters keep their published names.

    Source: arXiv 2102.12092, appendix A.1, and openai/DALL-E, dall_e/encoder.py.
    """

    patch_size = 8

    def __init__(self, vocabulary: int, width: int, blocks: int):
        super().__init__()
        self.vocabulary = vocabulary
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        groups: OrderedDict[str, nn.Module] = OrderedDict(input=_Conv(3, width, 7))
        for number, (before, after) in enumerate(pairwise(widths), 1):
            ends = pairwise([before, *[after] * blocks])
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for i, (inner, outer) in enumerate(ends, 1):
                group[f"block_{i}"] = _Bottleneck(inner, outer, 4 * blocks)
            if number < 4:
                group["pool"] = nn.MaxPool2d(2)
            groups[f"group_{number}"] = nn.Sequential(group)
        groups["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=_Conv(widths[-1], vocabulary, 1)))
        self.blocks = nn.Sequential(groups)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, V, H/8, W/8] of images in [0, 1], which are mapped to [0.1, 0.9]."""
        return self.blocks(0.8 * images + 0.1)


class _Bottleneck(nn.Module):
    """A bottleneck whose residual path is divided by the square of the network's number of blocks."""

    def __init__(self, before: int, after: int, network_blocks: int):
        super().__init__()
        hidden = after // 4
        self.gain = 1 / network_blocks**2
        self.id_path = nn.Identity() if before == after else _Conv(before, after, 1)
        self.res_path = nn.Sequential()
        shapes = [(before, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, after, 1)]
        for number, shape in enumerate(shapes, 1):
            self.res_path.add_module(f"relu_{number}", nn.ReLU())
            self.res_path.add_module(f"conv_{number}", _Conv(*shape))

    def forward(self, maps: Tensor) -> Tensor:
        return self.id_path(maps) + self.gain * self.res_path(maps)


class _Conv(nn.Module):
    """A convolution that keeps the size, with DALL-E's names for weight and bias."""

    def __init__(self, before: int, after: int, size: int):
        super().__init__()
        self.w = nn.Parameter(torch.randn(after, before, size, size) / math.sqrt(before * size**2))
        self.b = nn.Parameter(torch.zeros(after))

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.w, self.b, padding="same")


def sizes(state: dict[str, Tensor]) -> tuple[int, int, int]:
    """Return the vocabulary, the width and the blocks per group of a state; a missing part counts 0."""
    vocabulary = len(state.get("blocks.output.conv.b", ()))
    blocks = {key.split(".")[2] for key in state if key.startswith("blocks.group_1.block_")}
    return vocabulary, len(state["blocks.input.w"]), len(blocks)


# --- the file ---------------------------------------------------------------------------------------------------------


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state or of a pickled module by name, without running code from the file.

    Raises:
        ValueError: the file holds neither a state nor a module.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TENSORS_ONLY)
    except (OSError, EOFError, RuntimeError, AttributeError, ValueError, TypeError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a readable tokenizer ({line}): give DALL-E's encoder.pkl or its state"
        ) from error
    if isinstance(content, _Inert):
        content = dict(_tensors(content))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is not a tokenizer: give DALL-E's encoder.pkl or its state")
    return {key: value.detach() for key, value in content.items()}


class _Inert:
    """A stand-in for any class in a pickle: it keeps its state and does nothing."""

    dump_patches = False  # torch reads it for modules in files from before 1.6

    def __new__(cls, *_args: Any, **_options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__ = state


class _Unpickler(pickle.Unpickler):
    """An unpickler that rebuilds tensors and makes everything else inert."""

    REBUILT = (
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    )

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in self.REBUILT else _Inert


_TENSORS_ONLY = SimpleNamespace(
    __name__="tensors", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)


def _tensors(module: _Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of all parameters of a pickled module."""
    state = vars(module)
    for name, value in state.get("_parameters", {}).items():
        if value is not None:
            yield prefix + name, value
    for name, child in state.get("_modules", {}).items():
        yield from _tensors(child, f"{prefix}{name}.")
