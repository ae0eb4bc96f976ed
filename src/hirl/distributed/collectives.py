"""Collectives of the ranks: the processes that train one network together, one per GPU, as torchrun starts them.

A batch is the whole batch of all ranks. Every rank draws the random numbers of the whole batch, from generators in the
same state, and keeps its share of the rows: losses and gradients, averaged over ranks, are those of one process. With
one process every function here returns its input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=4)  # the others wait while rank 0 clusters

T = TypeVar("T")


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among the ranks."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Return whether this is rank 0, which alone writes files and prints."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group if torchrun started this process as a rank, and leave it at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others


# --- rows of a batch --------------------------------------------------------------------------------------------------


def local_slice(rows: Tensor, dim: int = 0) -> Tensor:
    """Return this rank's rows of a tensor that all ranks hold: [W * B, ...] -> [B, ...], in the order of the ranks."""
    return rows if world_size() == 1 else rows.chunk(world_size(), dim)[rank()]


def shard_range(count: int) -> range:
    """Return this rank's shard of `count` items: contiguous, each item on one rank; the last shards may be shorter."""
    longest = -(-count // world_size())
    return range(count)[rank() * longest : (rank() + 1) * longest]


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, [B, ...] -> [W * B, ...]; no gradient."""
    if world_size() == 1:
        return rows
    gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous())
    return gathered


@torch.no_grad()
def gather_shards(rows: Tensor, count: int) -> Tensor | None:
    """Return the rows of `count` sharded items, in their order, on rank 0; None on the others."""
    if world_size() == 1:
        return rows
    longest = -(-count // world_size())
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    if not is_main_process():
        dist.gather(padded)
        return None
    gathered = rows.new_empty(world_size() * longest, *rows.shape[1:])
    dist.gather(padded, list(gathered.split(longest)))
    return gathered[:count]


@torch.no_grad()
def all_gather_shards(rows: Tensor, count: int) -> Tensor:
    """Return the rows of `count` sharded items, in their order, on all ranks."""
    if world_size() == 1:
        return rows
    missing = -(-count // world_size()) - len(rows)
    return gather(torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]))[:count]


def gather_objects(items: list[T]) -> list[T]:
    """Return the picklable items of all ranks, in the order of the ranks, on rank 0; an empty list on the others."""
    if world_size() == 1:
        return items
    parts: list[Any] | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(items, parts)
    return [item for part in parts or () for item in part]


@torch.no_grad()
def total(values: Tensor) -> Tensor:
    """Return the sum over the ranks; no gradient."""
    if world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def mean(values: Tensor) -> Tensor:
    """Return the mean over the ranks; no gradient."""
    return total(values) / world_size()


def broadcast_object(make: Callable[[], T]) -> T:
    """Make a picklable object on rank 0, its tensors in main memory, and return it on all ranks."""
    if world_size() == 1:
        return make()
    made: list[Any] = [make() if is_main_process() else None]
    dist.broadcast_object_list(made)
    return made[0]
