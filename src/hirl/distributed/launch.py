"""Launch a step of the workflow: the GPUs and threads it gets, and its ranks, one per GPU.

torchrun's launcher starts the ranks (hirl.distributed.collectives says what they share). If a rank crashes, all are
started again and resume from the last checkpoint. A user error ends all of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import count
from pathlib import Path

from hirl.files import try_lock

RESTARTS = 3
USER_ERROR = signal.SIGUSR2  # by which a rank tells its launcher to end all ranks
# signals that end all ranks; without SIGHUP, so that under nohup a training outlives its terminal
SIGNALS = "SIGTERM,SIGINT,SIGQUIT,SIGUSR2"
# variables that set the number of a job's threads, as Snakemake sets them
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CHOSEN = "HIRL_CHOSEN_THREADS"  # set where `choose_threads` set THREADS, and neither the user nor Snakemake
SAMPLE_SECONDS = 0.25  # for which cores are watched before their number is chosen
RENDEZVOUS = "HIRL_RENDEZVOUS"  # the variable with the address where the launchers of several nodes meet


# --- GPUs -------------------------------------------------------------------------------------------------------------


@contextmanager
def gpus(number: int) -> Iterator[None]:
    """Lease `number` GPUs of this machine for this process and those it starts; do nothing on a machine without GPUs.

    Snakemake on one machine only counts GPUs, so every job chooses its own.

    Raises:
        ValueError: there are fewer GPUs.
    """
    seen = visible_gpus()
    if seen and number > len(seen):
        raise ValueError(f"--ranks {number} needs as many GPUs, but {len(seen)} are visible: lower it")
    if len(seen) < 2:
        yield
        return
    scheduler = os.environ.get("SLURM_JOB_ID", "")  # Slurm gives each job its own GPUs, under the same names
    folder = Path(tempfile.gettempdir()) / f"hirl-gpus-{os.getuid()}{scheduler}"
    with lease(seen, number, folder) as taken:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)  # before torch reads it
        yield


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True)
    return query.stdout.split() if query.returncode == 0 else []


@contextmanager
def lease(names: Sequence[str], number: int, folder: Path) -> Iterator[list[str]]:
    """Hold `number` of the GPUs, those with the fewest processes on them.

    Every GPU has numbered places, each a file; a process locks the first free place. All first places are tried before
    the second ones, so that jobs spread over the GPUs. A lock ends with its process, even if it is killed.
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
    """Lock a file until `held` is closed, unless another process has locked it; return whether it is locked now."""
    return try_lock(held.enter_context(path.open("w")))


# --- threads ----------------------------------------------------------------------------------------------------------


def choose_threads() -> None:
    """Give this process and those it starts one thread per idle core; a number that is set already stays.

    The variables count for libraries that load later: torch's OpenMP, which faiss shares, and the BLAS of numpy and
    scipy. Threads wait for each other in every operation, so one that has to share its core slows down all of them.
    Waiting asleep (OMP_WAIT_POLICY) or for a shorter time (GOMP_SPINCOUNT) helps little, and slows down small networks
    on an idle machine.
    """
    if not may_choose_threads() or "torch" in sys.modules or sys.platform != "linux":
        return
    cores, threads = len(os.sched_getaffinity(0)), idle_cores()
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    os.environ[CHOSEN] = "1"
    if threads < cores:
        print(f"threads: {threads} of {cores}, since other processes use the cores (OMP_NUM_THREADS sets their number)")


def may_choose_threads() -> bool:
    """Return whether neither the user nor Snakemake has set the number of threads."""
    return CHOSEN in os.environ or not any(variable in os.environ for variable in THREADS)


def idle_cores() -> int:
    """Watch the cores of this process for a moment; return how many other processes leave idle, at least 1."""
    cores, before = os.sched_getaffinity(0), _core_ticks()
    time.sleep(SAMPLE_SECONDS)
    after = _core_ticks()
    busy = 0.0
    for core in cores & before.keys() & after.keys():
        used, total = (new - old for new, old in zip(after[core], before[core], strict=True))
        busy += used / max(1, total)
    return max(1, len(cores) - round(busy))


def _core_ticks() -> dict[int, tuple[int, int]]:
    """Return of each core the ticks in use and all ticks since the start; empty if the system does not tell."""
    stat = Path("/proc/stat")
    ticks = {}
    for name, *counts in map(str.split, stat.read_text().splitlines() if stat.exists() else []):
        if (number := name.removeprefix("cpu")).isdigit():
            user, nice, system, idle, iowait, *interrupts_and_steal = map(int, counts[:8])
            used = user + nice + system + sum(interrupts_and_steal)
            ticks[int(number)] = (used, used + idle + iowait)
    return ticks


# --- the launcher -----------------------------------------------------------------------------------------------------


def launch(ranks: int, command: Sequence[str]) -> int:
    """Run `hirl COMMAND` on `ranks` processes, evenly on the nodes of a Slurm job; return the exit code.

    Raises:
        ValueError: the ranks are not a multiple of the nodes, or there are fewer GPUs.
    """
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if ranks % nodes:
        raise ValueError(f"--ranks {ranks} is not a multiple of the {nodes} nodes of this Slurm job: change either")
    if nodes > 1 and RENDEZVOUS not in os.environ:
        return _launch_on_every_node(nodes, command)
    with gpus(ranks // nodes):
        return _launch_here(nodes, ranks // nodes, command)


def _launch_on_every_node(nodes: int, command: Sequence[str]) -> int:
    """Make Slurm start this command's launcher on each node of the job; the launchers meet on this node."""
    with socket.create_server(("", 0)) as free:
        os.environ[RENDEZVOUS] = f"{socket.gethostname()}:{free.getsockname()[1]}"
    tasks = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit"]
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        tasks.append(f"--cpus-per-task={cpus}")
    return subprocess.call(["srun", *tasks, *_hirl(command)])


def _launch_here(nodes: int, ranks: int, command: Sequence[str]) -> int:
    """Start this node's ranks, start them again when one crashes, and return the exit code."""
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.WARNING)  # torch logs that it was told to end, and which ranks it ends
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns of gradients that some steps lack
    os.environ.update(dict.fromkeys(THREADS, str(max(1, torch.get_num_threads() // ranks))))
    # every start gets its own store: in a shared one, ranks would find the addresses of the start before
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
        return 2 if ended.sigval == USER_ERROR else 128 + ended.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        why = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        print(f"hirl: rank {rank} crashed ({why}), and {RESTARTS} restarts did not help", file=sys.stderr)
        return 1
    return 0


def _hirl(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "hirl.cli", *command]


# --- the ranks --------------------------------------------------------------------------------------------------------


def is_launched() -> bool:
    """Return whether `launch`, or torchrun itself, started this process as a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_main_process() -> bool:
    """Return the same as `hirl.distributed.collectives.is_main_process`, without torch."""
    return not is_launched() or os.environ["RANK"] == "0"


@contextmanager
def as_rank() -> Iterator[None]:
    """Join the ranks: only rank 0 prints, and a user error on any rank ends all of them with one line."""
    from hirl.distributed.collectives import process_group

    launcher = os.getppid()
    with process_group(), ExitStack() as quiet:
        if not is_main_process():
            quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
            warnings.simplefilter("ignore")  # rank 0 shows the same warnings
        try:
            yield
        except ValueError as error:
            _end_all(error, launcher)


def _end_all(error: ValueError, launcher: int) -> None:
    """Print a user error once, though many ranks may have found it, and make the launcher end all ranks.

    If this rank just exited, the others would crash or wait for it.
    """
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if store.add("hirl/user_errors", 1) == 1:
        print(f"hirl: {error}", file=sys.stderr, flush=True)
    if os.getppid() == launcher:
        ours = USER_ERROR.name in os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"]
        os.kill(launcher, USER_ERROR if ours else signal.SIGTERM)  # torchrun's own launcher does not handle SIGUSR2
        signal.pause()
