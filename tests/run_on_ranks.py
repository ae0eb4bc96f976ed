"""Run a function on several ranks of one CPU, to compare the results with one process.

The ranks are forked from a server that has imported torch once: a call takes one second instead of ten.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

# also what the tests import that have functions for ranks, and what these functions import
SERVER_IMPORTS = [
    *("pytest", "pandas", "faiss", "torch.distributed", "hirl.training.loop", "hirl.training.train_tokenizer"),
    *("hirl.evaluation.detection", "hirl.evaluation.finetune", "hirl.evaluation.run"),
]
TIMEOUT = timedelta(minutes=2)  # a rank that waits for another one longer fails its test


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns on each of `count` ranks, rank 0 first.

    The function must stand at the top level of a module. It runs in new processes with one thread, without GPUs, joined
    by gloo; a single rank gets no process group. Arguments and results are pickled. An exception on a rank is raised
    here, with its traceback.
    """
    forkserver.set_forkserver_preload(SERVER_IMPORTS)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_run, (count, Path(folder), function, arguments), count, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def on_two_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `on_ranks` with two ranks."""
    return on_ranks(2, function, *arguments)


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start `function(*arguments)` in a process of its own, without a process group, for tests that kill it."""
    forkserver.set_forkserver_preload(SERVER_IMPORTS)
    process = get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    return process


def _run(rank: int, count: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    set_start_method("fork", force=True)  # loaders start their workers by fork, as everywhere else
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", TIMEOUT, count, rank)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    if count > 1:
        dist.destroy_process_group()  # skipped after an error, when it would wait for the other ranks
