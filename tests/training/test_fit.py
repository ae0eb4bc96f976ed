from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hirl.config import OptimizerConfig, TrainingConfig
from hirl.distributed.device import seed_step
from hirl.files import locked
from hirl.training.fit import fit
from tests.training.small_training import CONFIG, loss_of, new_network, train


class Killed(BaseException):
    """Ends a training with no word to it, as a signal does: what it leaves is what lies in its folder."""


def dies_after(steps: int, loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    left = iter(range(steps))

    def dying(batch: Tensor) -> Tensor:
        if next(left, None) is None:
            raise Killed
        return loss(batch)

    return dying


def same_state(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


# --- training ---------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_a_plain_loop(tmp_path) -> None:
    network, plain = new_network(), new_network()
    history = train(tmp_path, network)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    losses = []
    for number in range(12):
        seed_step(5, number)
        batch = torch.randn(16, 4)
        rate = 0.05 * (number / 3 if number < 3 else (1 + math.cos(math.pi * (number - 3) / 9)) / 2)
        optimizer.param_groups[0]["lr"] = rate
        losses.append(loss_of(plain)(batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    for value, expected in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)  # float32; the optimiser here is fused
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    means = torch.stack(losses).view(4, 3).mean(dim=1).tolist()
    assert [row["loss"] for row in history] == pytest.approx(means, rel=1e-5)
    assert history[-1]["learning_rate"] == pytest.approx(rate)
    assert all(row["seconds"] > 0 for row in history)


def test_gradients_are_clipped_to_a_global_norm(tmp_path) -> None:
    network = nn.Linear(4, 1)
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    optimizer = OptimizerConfig(base_lr=0.5, momentum=0.0, weight_decay=0.0, clip_norm=1e-3)
    config = TrainingConfig(epochs=1, batch_size=256, precision="fp32", optimizer=optimizer)
    groups = [{"params": list(network.parameters())}]
    fit("run", network, groups, lambda epoch: [torch.ones(2, 4)], loss_of(network), config, 1, tmp_path, "f")
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.5 * 1e-3, rel=1e-3)  # float32 weights of size 1


# --- going on after a kill --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("steps", [0, 4, 6, 11])
def test_killed_and_resumed_is_bit_equal_to_one_go(tmp_path, name: str, steps: int) -> None:
    config = CONFIG.model_copy(update={"optimizer": OptimizerConfig(name=name, base_lr=0.1, weight_decay=0.01)})
    whole, killed, resumed = (new_network() for _ in range(3))
    expected = train(tmp_path / "whole", whole, config=config)
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed, dies_after(steps, loss_of(killed)), config=config)
    found = train(tmp_path / "killed", resumed, config=config)
    assert same_state(resumed, whole)
    assert [row | {"seconds": 0} for row in found] == [row | {"seconds": 0} for row in expected]


def test_a_finished_training_is_only_taken_up_again(tmp_path) -> None:
    once, again = new_network(), new_network()
    history = train(tmp_path, once)
    assert train(tmp_path, again, lambda _: pytest.fail("there is nothing left to train")) == history
    assert same_state(again, once)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused(tmp_path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="is in use by another process"):
        train(tmp_path, new_network())
