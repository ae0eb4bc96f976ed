"""A network on two ranks is that of one process with the batch of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from hirl.distributed.collectives import gather, is_main_process, local_slice
from hirl.distributed.parallel import global_mean, parallel, synchronise
from tests.run_on_ranks import on_two_ranks

PRECISION = 1e-5  # float32, sums in two parts


class Network(nn.Module):
    """Two norms, one after a convolution, one after a layer, and a parameter that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.AvgPool2d(4))
        self.rows = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2))
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows(self.maps(images))


def new_network() -> Network:
    torch.manual_seed(0)
    return Network()


def pictures() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 3 + 5


def train_a_step() -> dict[str, Any]:
    """Two passes, then what they gave; in evaluation mode a pass of each rank's own."""
    network = synchronise(new_network())
    ids = [id(parameter) for parameter in network.parameters()]
    wrapped = parallel(network)
    for _ in range(2):
        network.zero_grad()
        output = wrapped(local_slice(pictures()))
        output.square().sum(dim=1).mean().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {
        "outputs": gather(output.detach()),
        "gradients": gradients,
        "state": network.state_dict(),
        "evaluated": network.eval()(pictures()).detach(),
        "same parameters": ids == [id(parameter) for parameter in network.parameters()],
    }


def uneven_rows() -> tuple[Tensor, Tensor, Tensor]:
    """A norm over five rows, two on the first rank, three on the second; the gradient with regard to the rows."""
    norm = synchronise(nn.Sequential(nn.BatchNorm1d(3)))
    rows = ROWS[:2] if is_main_process() else ROWS[2:]
    rows = rows.clone().requires_grad_()
    output = norm(rows)
    (output**3).sum().backward()
    return output.detach(), rows.grad, norm[0].running_var


ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))


def drop_paths() -> dict[str, Any]:
    """Which rows of ones two calls keep, and where the generator then is."""
    torch.manual_seed(3)
    path = synchronise(nn.Sequential(DropPath(0.5)))
    kept = [path(torch.ones(64, 2, 2)) for _ in range(2)]
    return {"kept": kept, "next": torch.rand(1), "evaluated": path.eval()(torch.ones(4))}


def mean_with_gradient() -> tuple[Tensor, Tensor]:
    values = torch.tensor([1.0, 2.0] if is_main_process() else [3.0, 6.0], requires_grad=True)
    mean = global_mean(values)
    mean.square().sum().backward()
    return mean.detach(), values.grad


def everything() -> dict[str, Any]:
    functions = (train_a_step, uneven_rows, drop_paths, mean_with_gradient)
    return {function.__name__: function() for function in functions}


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_two_ranks(everything)


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=PRECISION, atol=PRECISION)


def test_one_process_keeps_its_network() -> None:
    network = new_network()
    names = [type(module) for module in network.modules()]
    assert parallel(network) is network
    assert [type(module) for module in synchronise(network).modules()] == names


def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(found) -> None:
    alone = train_a_step()
    for rank in (each["train_a_step"] for each in found):
        for what in ("outputs", "gradients", "state", "evaluated"):
            close(rank[what], alone[what])
        assert rank["same parameters"]


def test_ranks_may_bring_different_numbers_of_rows(found) -> None:
    norm, rows = nn.BatchNorm1d(3), ROWS.clone().requires_grad_()
    output = norm(rows)
    (output**3).sum().backward()
    outputs, gradients, variances = zip(*(each["uneven_rows"] for each in found), strict=True)
    close(torch.cat(outputs), output.detach())
    close(torch.cat(gradients), rows.grad)
    for variance in variances:
        close(variance, norm.running_var)


def test_paths_are_dropped_independently_and_generators_stay_in_step(found) -> None:
    alone = drop_paths()
    first, second = (each["drop_paths"] for each in found)
    for call in (0, 1):
        rows = [rank["kept"][call] for rank in (first, second)]
        assert not torch.equal(*rows)
        assert set(torch.cat(rows).flatten().tolist()) == {0.0, 2.0}  # kept ones stand for dropped ones
        assert all(row.unique().numel() == 1 for row in torch.cat(rows))  # an image's path, whole
    assert torch.equal(first["next"], second["next"])
    assert first["next"] != alone["next"]  # twice as many numbers were drawn
    assert torch.equal(first["evaluated"], torch.ones(4))


def test_a_mean_has_its_gradient_on_every_rank(found) -> None:
    for mean, gradient in (each["mean_with_gradient"] for each in found):
        assert torch.equal(mean, torch.tensor([2.0, 4.0]))
        assert torch.equal(gradient, torch.tensor([4.0, 8.0]))  # of both ranks' losses, d (2 m^2) / d m / 2
