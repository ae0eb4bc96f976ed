"""The ranks: processes that train one network together, one per GPU, as torchrun starts them.

A batch is the whole batch of all ranks. Each draws the random numbers of the whole batch from generators that are in
step, and keeps its share of the rows: losses and gradients, averaged over ranks, are those of one process. With one
process every function here gives back what it got.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=4)  # the others wait while the first rank clusters

T = TypeVar("T")


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the rank that writes files and talks."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the ranks that torchrun started this process among, if it did, and leaves them at the end."""
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
    """This rank's part of what all ranks hold alike: [W * B, ...] -> [B, ...], in the order of the ranks."""
    return rows if world_size() == 1 else rows.chunk(world_size(), dim)[rank()]


def shard_range(count: int) -> range:
    """This rank's part of `count` items: contiguous, each item on one rank; the last may have fewer."""
    longest = -(-count // world_size())
    return range(count)[rank() * longest : (rank() + 1) * longest]


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, [B, ...] -> [W * B, ...]; no gradient."""
    if world_size() == 1:
        return rows
    gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous())
    return gathered


@torch.no_grad()
def gather_shards(rows: Tensor, count: int) -> Tensor | None:
    """The first rank gets the rows of `count` items that were sharded, in their order; the others None."""
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


def gather_objects(items: list[T]) -> list[T]:
    """The first rank gets the items of all ranks, in the order of the ranks; the others none. Any can be pickled."""
    if world_size() == 1:
        return items
    parts = [None] * world_size() if is_main_process() else None
    dist.gather_object(items, parts)
    return [item for part in parts or () for item in part]


@torch.no_grad()
def mean(values: Tensor) -> Tensor:
    """The mean over the ranks; no gradient."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def broadcast_object(make: Callable[[], T]) -> T:
    """What the first rank makes, on all ranks: anything that can be pickled, its tensors in main memory."""
    if world_size() == 1:
        return make()
    made = [make() if is_main_process() else None]
    dist.broadcast_object_list(made)
    return made[0]
