"""One process or many: the GPUs that a step gets, and the ranks that share its work, one per GPU.

The ranks are torchrun's (hirl.distributed.collectives says what they share). A rank that crashes has all of them
started again, from the last checkpoint; a user's mistake ends them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import count
from pathlib import Path

RESTARTS = 3
MISTAKE = signal.SIGUSR2  # by which a rank tells its launcher to end all
SIGNALS = "SIGTERM,SIGINT,SIGQUIT,SIGUSR2"  # what ends all; not SIGHUP: under nohup a training outlives its terminal
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # of a job, as Snakemake says them
RENDEZVOUS = "HIRL_RENDEZVOUS"  # the variable that tells the launchers of several nodes where they meet


# --- GPUs -------------------------------------------------------------------------------------------------------------


@contextmanager
def gpus(number: int) -> Iterator[None]:
    """Takes GPUs of this machine for this process and those it starts; without GPUs there is nothing to take.

    A scheduler of one machine only counts them: which ones, every job chooses for itself.

    Raises:
        ValueError: fewer are there.
    """
    seen = visible_gpus()
    if seen and number > len(seen):
        raise ValueError(f"--ranks {number} needs as many GPUs, and {len(seen)} can be seen: lower it")
    if len(seen) < 2:
        yield
        return
    scheduler = os.environ.get("SLURM_JOB_ID", "")  # Slurm's jobs have GPUs of their own, under the same names
    folder = Path(tempfile.gettempdir()) / f"hirl-gpus-{os.getuid()}{scheduler}"
    with lease(seen, number, folder) as taken:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)  # before torch looks
        yield


def visible_gpus() -> list[str]:
    """The names of this process's GPUs, found without torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.split() if asked.returncode == 0 else []


@contextmanager
def lease(names: Sequence[str], number: int, folder: Path) -> Iterator[list[str]]:
    """Holds `number` of the GPUs: those with the fewest processes on them.

    A process on a GPU holds the first of its places that is free: a locked file. Locks fall with the process, however
    that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = ((name, place) for place in count() for name in names)
    with ExitStack() as held:
        taken: list[str] = []
        while len(taken) < number:
            name, place = next(places)
            if name not in taken and _take(folder / f"{name}.{place}", held):
                taken.append(name)
        yield taken


def _take(path: Path, held: ExitStack) -> bool:
    """Locks a file, unless another process has."""
    handle = held.enter_context(path.open("w"))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- the launcher -----------------------------------------------------------------------------------------------------


def launch(ranks: int, command: Sequence[str]) -> int:
    """Runs `hirl COMMAND` on `ranks` processes, evenly on the nodes of a Slurm job; returns the exit code.

    Raises:
        ValueError: the nodes cannot have as many ranks each, or the GPUs are fewer.
    """
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if ranks % nodes:
        raise ValueError(f"--ranks {ranks} cannot be shared evenly by the {nodes} nodes of this Slurm job")
    if nodes > 1 and RENDEZVOUS not in os.environ:
        return _launch_on_every_node(nodes, command)
    with gpus(ranks // nodes):
        return _launch_here(nodes, ranks // nodes, command)


def _launch_on_every_node(nodes: int, command: Sequence[str]) -> int:
    """Has Slurm start this command's launcher once on each node of the job; they meet on this one."""
    with socket.create_server(("", 0)) as free:
        os.environ[RENDEZVOUS] = f"{socket.gethostname()}:{free.getsockname()[1]}"
    tasks = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        tasks.append(f"--cpus-per-task={cpus}")
    return subprocess.call(["srun", *tasks, *_hirl(command)])


def _launch_here(nodes: int, ranks: int, command: Sequence[str]) -> int:
    """Starts this node's ranks, and again when one crashes; returns the exit code."""
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.WARNING)  # that it was told to end, and whom it tells
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # gradients that some steps lack are no news
    os.environ.update(dict.fromkeys(THREADS, str(max(1, torch.get_num_threads() // ranks))))
    # Each start has a store of its own: in one that all share, ranks find the addresses of those before them.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=ranks,
        run_id=os.environ.get("SLURM_JOB_ID", str(uuid.uuid4())),
        rdzv_backend="c10d",
        rdzv_endpoint=os.environ.get(RENDEZVOUS, "localhost:0"),
        max_restarts=RESTARTS,
        signals_to_handle=SIGNALS,
        logs_specs=DefaultLogsSpecs(os.devnull),  # ranks write to our own stdout and stderr
    )
    program, *arguments = _hirl(command)
    try:
        elastic_launch(config, program)(*arguments)
    except SignalException as ended:
        return 2 if ended.sigval == MISTAKE else 128 + ended.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        why = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        print(f"hirl: rank {rank} crashed ({why}), and {RESTARTS} new starts did not help", file=sys.stderr)
        return 1
    return 0


def _hirl(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "hirl.cli", *command]


# --- the ranks --------------------------------------------------------------------------------------------------------


def is_launched() -> bool:
    """Whether `launch`, or torchrun itself, started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_main_process() -> bool:
    """As `hirl.distributed.collectives.is_first`, told without torch."""
    return not is_launched() or os.environ["RANK"] == "0"


@contextmanager
def as_rank() -> Iterator[None]:
    """Joins the ranks; only the first is heard, and a user's mistake on any ends them all, said once."""
    from hirl.distributed.collectives import process_group

    launcher = os.getppid()
    with process_group(), ExitStack() as quiet:
        if not is_main_process():
            quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
            warnings.simplefilter("ignore")  # the first rank's are the same
        try:
            yield
        except ValueError as error:
            _end_all(error, launcher)


def _end_all(error: ValueError, launcher: int) -> None:
    """Says a mistake that many ranks may have found, and waits for the launcher, told to end, to end them all.

    Were this rank to end by itself, the others would crash over its absence, or wait for it.
    """
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if store.add("hirl/mistakes", 1) == 1:
        print(f"hirl: {error}", file=sys.stderr, flush=True)
    if os.getppid() == launcher:
        ours = MISTAKE.name in os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"]
        os.kill(launcher, MISTAKE if ours else signal.SIGTERM)  # torchrun's own dies of what it does not handle
        signal.pause()
