"""Record a run in append-only lines of JSON; trackers copy this record."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hirl.files import write_text
from hirl.tracking.machine import MachineSampler

# {"kind": "params" | "metrics" | "snapshot" | "system" | "end", "epoch": int, "time": Unix seconds, "values": {...}}
Record = dict[str, Any]


class Follower(Protocol):
    """Anything that receives each record after it is written."""

    def on_record(self, record: Record) -> None:
        """Take one record."""


class Recorder:
    """A run's append-only record: lines of {"kind", "epoch", "time", "values"}.

    An incomplete last line, left by a crash, is dropped on opening.
    """

    def __init__(self, path: str | Path, follower: Follower | None = None):
        self.path = Path(path)
        self.follower = follower
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()  # samples of the machine come from another thread
        self.sampler: MachineSampler | None = None
        self.epoch, self.samples = -1, 0  # the last epoch, and how often the machine was sampled
        self._rewrite(read_record(self.path))

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the run's configuration, and under "environment" the machine and versions."""
        self._append("params", 0, {**values, "environment": environment()})

    def metrics(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record an epoch's numbers."""
        self._append("metrics", epoch, values)

    def snapshot(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a new semantic tree."""
        self._append("snapshot", epoch, values)

    def system(self, values: Mapping[str, float]) -> None:
        """Record a sample of the machine, with its number; it belongs to the epoch that is not recorded yet."""
        self._append("system", self.epoch + 1, {"sample": self.samples, **values})

    def close(self, epoch: int = 0) -> None:
        """Record that the run has ended."""
        if self.sampler is not None:
            self.sampler.stop()
        self._append("end", epoch, {})

    def truncate_after(self, epoch: int) -> None:
        """Drop the end and all records after an epoch, before training resumes from it; -1 drops everything."""
        self._rewrite([r for r in read_record(self.path) if r["kind"] != "end" and r["epoch"] <= epoch])

    def _append(self, kind: str, epoch: int, values: Mapping[str, Any]) -> None:
        record = {"kind": kind, "epoch": epoch, "time": time.time(), "values": dict(values)}
        with self.lock:
            with self.path.open("a") as handle:
                handle.write(json.dumps(record) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            self._count([record])
            if self.follower is not None:
                self.follower.on_record(record)
        if self.sampler is None and kind != "end":
            self.sampler = MachineSampler(self.system)

    def _count(self, records: list[Record]) -> None:
        """Keep the last epoch and the number of samples."""
        self.epoch = max([self.epoch, *(record["epoch"] for record in records if record["kind"] == "metrics")])
        self.samples += sum(record["kind"] == "system" for record in records)

    def _rewrite(self, records: list[Record]) -> None:
        self.epoch, self.samples = -1, 0
        self._count(records)
        text = "".join(json.dumps(record) + "\n" for record in records)
        if not self.path.exists() or self.path.read_text() != text:
            write_text(self.path, text)


def read_record(path: str | Path) -> list[Record]:
    """Return the complete lines of a record; none where there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    *lines, _incomplete = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


def record_evaluation(folder: str | Path, task: str, start: float, end: float) -> None:
    """Append when an evaluation ran, in Unix seconds, to the record beside its results."""
    with (Path(folder) / "record.jsonl").open("a") as handle:
        handle.write(json.dumps({"kind": "evaluation", "task": task, "start": start, "end": end}) + "\n")


def evaluation_times(folder: str | Path) -> dict[str, tuple[float, float]]:
    """Return when each task of a run was evaluated last: its start and end, in Unix seconds."""
    return {row["task"]: (row["start"], row["end"]) for row in read_record(Path(folder) / "record.jsonl")}


def environment() -> dict[str, Any]:
    """Return processor, threads, memory, GPUs, versions and commit."""
    torch = sys.modules.get("torch")  # a training has imported it; nobody else should wait for the import
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else "unknown",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "hirl": _own_version(),
        "git_commit": git_commit(),
    }


def _own_version() -> str:
    """Return this package's version; "unknown" where it runs from a clone without an installation."""
    try:
        return importlib.metadata.version("hirl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """Return the processor's model name, or "unknown"."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def git_commit() -> str:
    """Return the project's commit, marked "-dirty" where files differ from it; "unknown" outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
