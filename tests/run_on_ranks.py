"""Runs a function on several ranks of one CPU, to be compared with what one process finds.

The ranks are forked from a server that has imported torch once, so that a call costs a second, not ten.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver, set_start_method
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

SERVER_IMPORTS = ["pytest", "torch.distributed", "hirl.evaluation.finetune", "hirl.distributed.parallel"]
TIMEOUT = timedelta(minutes=2)  # a rank that waits in vain for the other fails its test


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` gives on each of `count` ranks, the first rank's first; one rank is no group.

    The function, of a module's top level, runs in new processes with one thread, without GPUs, joined by gloo. What
    goes in and out is pickled. An exception on a rank is raised here, with its traceback.
    """
    forkserver.set_forkserver_preload(SERVER_IMPORTS)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_run, (count, Path(folder), function, arguments), count, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def on_two_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`on_ranks` with two."""
    return on_ranks(2, function, *arguments)


def _run(rank: int, count: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    set_start_method("fork", force=True)  # of loaders' workers, as anywhere else
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", TIMEOUT, count, rank)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    if count > 1:
        dist.destroy_process_group()  # not after an error: it would wait for the others
