"""Run a network on several ranks: averaged gradients, batch norm over the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hirl.distributed.collectives import local_slice, world_size


def parallel(network: nn.Module) -> nn.Module:
    """Wrap a network so that gradients are averaged over the ranks; frozen parameters must stay frozen afterwards.

    Buffers are not synchronised: after `synchronise`, batch norm has the same statistics on every rank.
    """
    if world_size() == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False, find_unused_parameters=True)


def synchronise(network: nn.Module) -> nn.Module:
    """Make batch norm use the batch of all ranks, and drop path draw independently on each rank; in place.

    A method's own kind of batch norm, such as that of MoCo v2, is left alone.
    """
    if world_size() == 1:
        return network
    replace_norms(network, nn.SyncBatchNorm if torch.cuda.is_available() else _SyncBatchNorm)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, _DropPath(child.drop_prob, child.scale_by_keep))
    return network


def replace_norms(network: nn.Module, kind: Callable[[int, float, float | None, bool], _BatchNorm]) -> None:
    """Replace torch's batch norms in a network by another kind, with the same parameters and buffers; in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            replaced = kind(child.num_features, child.eps, child.momentum, child.affine)
            for key, values in [*child.named_parameters(), *child.named_buffers()]:
                setattr(replaced, key, values)
            setattr(network, name, replaced.train(child.training))
        else:
            replace_norms(child, kind)


class _SyncBatchNorm(_BatchNorm):
    """Batch norm over all ranks on a CPU, which torch lacks; as in torch's, the running variance is unbiased."""

    def _check_input_dim(self, values: Tensor) -> None:
        """Accept input of any number of dimensions."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        dims = [0, *range(2, values.ndim)]
        number = _sum(torch.tensor(float(values.numel() // values.shape[1])))  # images of scenes differ in size
        center = _sum(values.float().sum(dims, keepdim=True)) / number
        centered = values.float() - center
        variance = _sum(centered.square().sum(dims, keepdim=True)) / number
        with torch.no_grad():
            self.running_mean.lerp_(center.flatten(), self.momentum)
            self.running_var.lerp_(variance.flatten() * number / (number - 1), self.momentum)
        normalized = centered * (variance + self.eps).rsqrt()
        if self.affine:
            weight, bias = (part.view(-1, *[1] * len(dims[1:])) for part in (self.weight, self.bias))
            normalized = normalized * weight + bias
        return normalized.to(values.dtype)


def global_mean(values: Tensor) -> Tensor:
    """Return the mean over the ranks, with gradient."""
    return values if world_size() == 1 else _sum(values) / world_size()


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of the gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_context, gradient)


_sum = _Sum.apply


class _DropPath(DropPath):
    """timm's drop path, drawn for the batch of all ranks, so that their generators stay equal."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return values
        keep = 1 - self.drop_prob
        kept = values.new_empty(world_size() * len(values), *[1] * (values.ndim - 1)).bernoulli_(keep)
        return values * local_slice(kept.div_(keep) if self.scale_by_keep else kept)
