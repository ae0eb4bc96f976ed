"""A step asks the device for nothing: the CPU stays ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hirl.methods import beit, ibot
from hirl.methods.base import Step
from hirl.training.loop import build_method, take_step
from hirl.training.optimizers import build_optimizer, set_rates
from tests.conftest import METHODS

ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal", "is_nonzero")
COPIES = ("cpu", "tolist", "numpy")  # to the CPU, which is where the tests' tensors are already


class NothingAsked(TorchDispatchMode):
    """Fails on an operation whose result, or its size, only the device knows, and on a copy to the CPU."""

    def __enter__(self) -> Any:
        self.patch = pytest.MonkeyPatch()
        for name in COPIES:
            self.patch.setattr(Tensor, name, lambda *_, name=name, **__: pytest.fail(f"Tensor.{name} waits"))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.undo()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        asks = operation.overloadpacket.__name__ in ASKS
        if operation.overloadpacket.__name__ in ("index", "index_put_", "_index_put_impl_"):
            asks = any(index is not None and index.dtype == torch.bool for index in args[1])
        assert not asks, operation
        return operation(*args, **(kwargs or {}))


class OnTheCPU(Tensor):
    """A mask: what is asked of it, a CPU knows on its own."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with _disable_current_modes():
            return super().__torch_function__(function, types, args, kwargs)


@pytest.fixture
def masks_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(block_masks: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*args: Any) -> Tensor:
            with _disable_current_modes():
                return block_masks(*args).as_subclass(OnTheCPU)

        return draw

    for module in (ibot, beit):
        monkeypatch.setattr(module, "block_masks", drawn(module.block_masks))
        monkeypatch.setattr(module, "send", lambda values, _: values.as_subclass(Tensor))


@pytest.mark.parametrize("ask", ["item", "__bool__", "nonzero", "unique", "bincount", "cpu", "tolist", "numpy"])
def test_questions_are_noticed(ask: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)), NothingAsked():
        getattr(torch.ones(1, dtype=torch.long), ask)()


def test_a_mask_is_a_question() -> None:
    with pytest.raises(AssertionError), NothingAsked():
        torch.ones(1)[torch.ones(1) > 0]


@pytest.mark.parametrize(
    ("method", "optimizer"), [*((method, "adamw") for method in METHODS), ("simsiam", "sgd"), ("simsiam", "lars")]
)
def test_a_step_waits_for_nothing(
    tiny_run: Callable[..., Any], tiny_tokenizer: Any, masks_on_the_cpu: None, method: str, optimizer: str
) -> None:
    settings = {"backbone": {"drop_path": 0.1}, "training": {"optimizer": {"name": optimizer, "clip_norm": 1.0}}}
    config = tiny_run(method, "hirl", hierarchy={"encode": "steps"}, **settings)
    network = build_method(config, tokenizer=tiny_tokenizer).train()
    network.before_epoch(1, lambda *_: torch.randn(64, network.embedding_dim))
    optimizer = build_optimizer(network.parameter_groups(), config.training.optimizer)
    set_rates(optimizer, 1e-3, 1e-3, 0.0)
    step, views = Step(4, 4, 3, torch.arange(16)), [torch.randn(16, 3, 32, 32) for _ in range(2)]
    with NothingAsked():
        take_step(network, network, optimizer, views, step, torch.bfloat16, clip_norm=1.0)
