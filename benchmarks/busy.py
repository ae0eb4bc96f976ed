"""How fast is a training on a busy machine?

    python benchmarks/busy.py [--method mocov2] [--busy 3] [--rounds 3]

Two trainings of the demo take steps in turns, first alone, then beside processes that compute without pause. *Ours* has
the number of threads that `hirl` chooses there, one per idle core; the peer has torch's default, one per core. The fair
share of a training is the speed of the faster one alone, divided by the number of processes that then share the cores.

All processes belong to one session, so that Linux treats them alike. Images/s are those of all turns together, each of
1.5 s alone and of 4 s beside the others.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from common import Report, parser

from hirl.distributed.launch import THREADS, idle_cores

ALONE, BESIDE = 1.5, 4.0  # seconds of a turn
OURS, DEFAULT = "ours", "torch's default"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--method", default="mocov2")
    options.add_argument("--busy", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    with busy_processes(args.busy):
        threads = idle_cores()
    trainings = {OURS: start_training(args.method, threads), DEFAULT: start_training(args.method, None)}
    alone = images_per_second(trainings, args.rounds, ALONE)
    with busy_processes(args.busy):
        beside = images_per_second(trainings, args.rounds, BESIDE)
    for training in trainings.values():
        training.send(None)
    fair = max(alone.values()) / (args.busy + 1)
    rows = [
        {"": name, "threads": threads if name == OURS else len(os.sched_getaffinity(0))}
        | {"alone": alone[name], "beside them": beside[name], "of the fair share": beside[name] / fair}
        for name in trainings
    ]
    report = Report(args)
    sides = {"ours": f"{beside[OURS]:.0f} images/s", "peer": f"{beside[DEFAULT]:.0f} images/s, torch's default"}
    what = f"Speed beside {args.busy} busy processes / a fair share of the machine"
    report.goal(what, beside[OURS] / fair, 0.8, **sides)
    report.table(rows, f"Images/s of {args.method} alone, and beside busy processes: {args.busy}")


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many processes busy within the context."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.5)  # until all have started
        yield
    finally:
        for process in processes:
            process.kill()


def start_training(method: str, threads: int | None) -> Connection:
    """Start a training of so many threads, or torch's default; it takes seconds, and answers images and seconds."""
    for variable in THREADS:
        os.environ.pop(variable, None)
    if threads is not None:
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=train, args=(theirs, method), daemon=True).start()
    ours.recv()
    return ours


def train(asked: Connection, method: str) -> None:
    """Take steps for as many seconds as asked; answer how many images that were, and their seconds; end with None."""
    import torch

    from hirl.config import load_study
    from hirl.planning.step_benchmark import StepBenchmark

    config = load_study("demo").resolve(method, "baseline", 0)
    benchmark = StepBenchmark(config, torch.device("cpu"))
    benchmark.seconds(10)  # the first steps are slow
    asked.send("ready")
    while (least := asked.recv()) is not None:
        images, taken = 0, 0.0
        while taken < least:
            taken += benchmark.seconds(1)
            images += config.training.batch_size
        asked.send((images, taken))


def images_per_second(trainings: dict[str, Connection], rounds: int, seconds: float) -> dict[str, float]:
    """Let the trainings take turns; return the speed of each over all of its turns."""
    images, taken = dict.fromkeys(trainings, 0), dict.fromkeys(trainings, 0.0)
    for _ in range(rounds):
        for name, training in trainings.items():
            training.send(seconds)
            answer = training.recv()
            images[name] += answer[0]
            taken[name] += answer[1]
    return {name: images[name] / taken[name] for name in trainings}


if __name__ == "__main__":
    main()
