"""Measure the largest tensor that a piece of code makes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """A context whose `largest` is the number of elements of the largest tensor made in it, except views of `known`."""

    def __init__(self, known: Tensor | None = None):
        super().__init__()
        self.known = None if known is None else known.untyped_storage()._cdata
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata != self.known:
                self.largest = max(self.largest, tensor.numel())
        return result
