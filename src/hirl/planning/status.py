"""Tell how far a study is, while it runs or afterwards: from its results, records, locks and logs.

Only reads, and costs no torch. A run's training is going on if its scratch folder is locked. What Snakemake will still
make, and what it is making, stands in its own folder `.snakemake`.

The time left comes from measured times: those of a run's own last epochs, or of the most similar run (its method and
variant, else its method, else all). HIRL runs that take over the first epochs of their baseline count the others only.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal

from hirl.config import CONFIG_ROOT, TASKS, RunName, Study
from hirl.files import is_locked, read_json
from hirl.tracking.record import Record, read_record
from hirl.training.progress import RECENT, duration
from hirl.training.scratch import RECORD

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["done", "trains", "evaluates", "failed", "stopped", "evaluated in part", "waiting", "not started"]
RUNNING: tuple[State, ...] = ("trains", "evaluates")


@dataclass(frozen=True)
class Training:
    """What a run's record tells.

    Attributes:
        done: epochs that are finished.
        epochs: of the whole training.
        seconds: of the epochs that the run trained itself.
        taken_over: epochs that it took over from its baseline.
        last: the row of the last epoch.
        ended: Unix time of its end.
    """

    done: int
    epochs: int
    seconds: tuple[float, ...]
    taken_over: int
    last: Mapping[str, float]
    ended: float

    @property
    def left(self) -> float | None:
        """Return the seconds of the epochs that are missing, as long as the last ones; None before the first."""
        return (self.epochs - self.done) * mean(self.seconds[-RECENT:]) if self.seconds else None


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, and the seconds that its training and its evaluations still need, where they are known."""

    name: str
    state: State
    training: Training | None = None
    left: float | None = None
    note: str = ""


@dataclass(frozen=True)
class StudyStatus:
    """The state of a study.

    Attributes:
        name: of the study.
        asked: how a command names it: its name, or the path of its file.
        runs: those that Snakemake was asked for, or else those of the study and those that have begun.
        works: whether anything works on it now.
        left: seconds until all runs are done; None if nothing is measured yet.
        evaluated: whether `left` counts evaluations: whether any is measured.
    """

    name: str
    asked: str
    runs: tuple[RunStatus, ...]
    works: bool
    left: float | None
    evaluated: bool

    def count(self, *states: State) -> int:
        """Return the number of runs in these states."""
        return sum(run.state in states for run in self.runs)


# --- the study --------------------------------------------------------------------------------------------------------


def study_status(study: Study, root: Path = Path()) -> StudyStatus:
    """Return the state of a study whose results/, scratch/ and logs/ are in a folder."""
    snakemake = Snakemake.read(root)
    asked = snakemake.runs(study.name)
    names = asked or _own_runs(study, root)
    trainings = {name: _training(study.name, name, root) for name in names}
    evaluating = _evaluation_seconds(study.name, names, root)
    runs = []
    for name in names:
        state, note = _state(study, name, root, snakemake)
        seconds = None
        if state != "done":
            trained = (_folder(study.name, name, root) / "weights.safetensors").exists()
            training = 0.0 if trained else _training_left(study, name, state, trainings)
            seconds = None if training is None else training + (evaluating or 0)
        runs.append(RunStatus(name, state, trainings[name], seconds, note))
    working = sum(run.state in RUNNING for run in runs)
    unfinished = [run.left for run in runs if run.state in (*RUNNING, "waiting")]
    known = [seconds for seconds in unfinished if seconds is not None]
    left = max(*known, sum(known) / max(1, working), 0) if len(known) == len(unfinished) else None
    asked_as = study.name if study.path.parent == CONFIG_ROOT / "studies" else str(study.path)
    return StudyStatus(study.name, asked_as, tuple(runs), bool(working) or bool(asked), left, evaluating is not None)


def _own_runs(study: Study, root: Path) -> list[str]:
    """Return the runs of a study, and others of it that have results."""
    begun = (path.name for path in sorted((root / "results" / study.name / "runs").glob("*")))
    return list(dict.fromkeys([*map(str, study.run_names()), *begun]))


def _folder(study: str, run: str, root: Path) -> Path:
    return root / "results" / study / "runs" / run


# --- a run ------------------------------------------------------------------------------------------------------------


def _state(study: Study, run: str, root: Path, snakemake: Snakemake) -> tuple[State, str]:
    """Return the state of a run, and why it failed or what it lacks."""
    folder = _folder(study.name, run, root)
    results = snakemake.results(folder) or _results(study, RunName.parse(run), folder)
    missing = [path for path in results if not path.exists()]
    if not missing:
        return "done", ""
    if (scratch := _scratch(study.name, run, root)) is not None and is_locked(scratch):
        return "trains", ""
    if any(path in snakemake.making for path in missing):
        return ("trains" if folder / "weights.safetensors" in missing else "evaluates"), ""
    log = _last_log(study.name, run, root)
    if log is not None and log.stat().st_mtime > snakemake.since and (reason := _error(log)):
        return "failed", reason
    if snakemake.alive:
        return "waiting", ""
    if any(path.suffix == ".json" and path.exists() for path in results):
        return "evaluated in part", f"{len(results) - len(missing)} of {len(results)} results"
    return ("stopped" if scratch is not None or folder.exists() else "not started"), ""


def _results(study: Study, run: RunName, folder: Path) -> list[Path]:
    """Return the files that a finished run of the whole study has."""
    has_tree = not run.is_control and run.variant != "baseline"
    tasks = [task for task in study.config.tasks if has_tree or not TASKS[task].reads_tree]
    results = [folder / "evaluation" / f"{task}.json" for task in tasks]
    return results if run.is_control else [folder / "weights.safetensors", *results]


def _scratch(study: str, run: str, root: Path) -> Path | None:
    """Return the folder in which a run trains, or trained last; its name ends with a hash."""
    found = [path for path in (root / "scratch" / study).glob(f"{run}-*") if (path / "lock").exists()]
    return max(found, key=lambda path: (path / "lock").stat().st_mtime, default=None)


def _last_log(study: str, run: str, root: Path) -> Path | None:
    return max((root / "logs" / study / run).glob("*.log"), key=lambda path: path.stat().st_mtime, default=None)


def _error(log: Path) -> str:
    """Return the last line of a log that ends with a user's mistake or a crash; else nothing."""
    lines = log.read_text(errors="replace").strip().splitlines()[-100:]
    last = lines[-1] if lines else ""
    mistake = last.startswith("hirl: ") and not last.startswith("hirl: stopped")
    crashed = any(line.startswith("Traceback") for line in lines)
    return last.removeprefix("hirl: ") if mistake or crashed else ""


# --- times ------------------------------------------------------------------------------------------------------------


def _training(study: str, run: str, root: Path) -> Training | None:
    """Return what the record of a run tells: that of its results, or else that of its scratch folder."""
    finished = _folder(study, run, root) / RECORD
    scratch = _scratch(study, run, root)
    path = finished if finished.exists() else scratch and scratch / RECORD
    records = read_record(path) if path else []
    return _told(records)


def _told(records: Sequence[Record]) -> Training | None:
    settings = next((record["values"] for record in records if record["kind"] == "params"), None)
    rows = [record for record in records if record["kind"] == "metrics"]
    if settings is None:
        return None
    epochs, taken_over = settings["config"]["training"]["epochs"], settings.get("stem", {}).get("epochs", 0)
    seconds = tuple(row["values"]["seconds"] for row in rows[taken_over:])
    last = rows[-1] if rows else {"values": {}, "time": records[-1]["time"]}
    return Training(len(rows), epochs, seconds, taken_over, last["values"], last["time"])


def _training_left(study: Study, run: str, state: State, trainings: Mapping[str, Training | None]) -> float | None:
    """Return the seconds that a run's training still needs, or None if nothing like it is measured."""
    name = RunName.parse(run)
    if name.is_control:
        return 0.0
    own = trainings[run]
    if own is not None and own.left is not None:
        since = time.time() - own.ended if state == "trains" else 0.0
        return max(0.0, own.left - since)
    measured = {RunName.parse(other): told for other, told in trainings.items() if told is not None and told.seconds}
    for likeness in (("method", "variant"), ("method",), ()):
        alike = [told for other, told in measured.items() if _agree(other, name, likeness)]
        if alike:
            return mean(mean(told.seconds) * (told.epochs - told.taken_over) for told in alike)
    return None


def _agree(one: RunName, other: RunName, parts: Iterable[str]) -> bool:
    return all(getattr(one, part) == getattr(other, part) for part in parts)


def _evaluation_seconds(study: str, runs: Iterable[str], root: Path) -> float | None:
    """Return the mean seconds of a finished run's evaluation jobs, as Snakemake has measured them."""
    measured = []
    for run in runs:
        files = (_folder(study, run, root) / "evaluation").glob("*.json")
        jobs = {job for path in files if (job := _job_times(path.relative_to(root), root)) is not None}
        if jobs:
            measured.append(sum(end - start for start, end in jobs))
    return mean(measured) if measured else None


# --- Snakemake --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snakemake:
    """What Snakemake's own files tell.

    Attributes:
        alive: whether a call is going on.
        since: Unix time of its start, 0 without a call.
        outputs: files that it was asked for and that were missing at its start.
        making: files that its jobs are making.
    """

    alive: bool
    since: float
    outputs: frozenset[Path]
    making: frozenset[Path]

    @classmethod
    def read(cls, root: Path) -> Snakemake:
        """Read the files of the calls in a folder."""
        own = root / ".snakemake"
        locks = list((own / "locks").glob("*.output.lock"))
        if not locks or not _is_running(root):
            return cls(False, 0.0, frozenset(), frozenset())
        outputs = {root / line for path in locks for line in path.read_text().splitlines()}
        making = {root / path for path in map(_decoded, (own / "incomplete").glob("*")) if path is not None}
        return cls(True, min(path.stat().st_mtime for path in locks), frozenset(outputs), frozenset(making))

    def results(self, run: Path) -> list[Path]:
        """Return the files in a run's folder that it was asked for."""
        return [path for path in self.outputs if path.is_relative_to(run)]

    def runs(self, study: str) -> list[str]:
        """Return the runs of a study that it was asked for, sorted."""
        parts = [path.parts for path in self.outputs]
        found = {part[part.index("runs") + 1] for part in parts if {study, "runs"} <= set(part)}
        return sorted(found)


def _is_running(root: Path) -> bool:
    """Return whether a Snakemake works in a folder; on systems without /proc its lock decides, which a kill leaves."""
    processes = Path("/proc")
    if not (processes / "self" / "cwd").exists():
        return True
    return any(_is_snakemake(process, root.resolve()) for process in processes.glob("[0-9]*"))


def _is_snakemake(process: Path, root: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        named = any(Path(os.fsdecode(word)).name == "snakemake" for word in words[:3])
        return named and (process / "cwd").resolve() == root
    except OSError:  # it has ended, or is another user's
        return False


def _decoded(marker: Path) -> Path | None:
    """Return the path of an output from the name that Snakemake's file about it has; None for a name in parts."""
    return Path(os.fsdecode(base64.urlsafe_b64decode(marker.name))) if marker.is_file() else None


def _job_times(output: Path, root: Path) -> tuple[float, float] | None:
    """Return when the job that made an output started and ended; None if Snakemake did not keep it."""
    name = base64.urlsafe_b64encode(os.fsencode(output)).decode()
    path = root / ".snakemake" / "metadata" / name
    if not path.is_file():
        return None
    told = read_json(path)
    start, end = told.get("starttime"), told.get("endtime")
    return (start, end) if start and end else None


# --- shown ------------------------------------------------------------------------------------------------------------


def headline(status: StudyStatus) -> str:
    """Return the state of a study in one line."""
    groups: tuple[tuple[str, tuple[State, ...]], ...] = (
        ("done", ("done",)),
        ("running", RUNNING),
        ("failed", ("failed",)),
        ("stopped", ("stopped",)),
        ("evaluated in part", ("evaluated in part",)),
        ("waiting", ("waiting",)),
        ("not started", ("not started",)),
    )
    counts = [f"{number} {title}" for title, states in groups if (number := status.count(*states))]
    line = f"{status.name}  {len(status.runs)} run{'s' * (len(status.runs) != 1)}: {', '.join(counts)}"
    if status.works:
        if status.left is None:
            return f"{line}; no time measured yet"
        if status.left == 0:
            return f"{line}; evaluations, figures or the report are left"
        return f"{line}; about {duration(status.left)} {'' if status.evaluated else 'of training '}left"
    if status.count("done") < len(status.runs):
        line += f"; nothing works on it now, `snakemake --cores all --config study={status.asked}` goes on"
    return line


def runs_table(status: StudyStatus) -> Table:
    """Return a table with a row for each run."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("run", "state"):
        table.add_column(column)
    for column in ("epoch", "loss", "images/s", "left"):
        table.add_column(column, justify="right")
    table.add_column("")
    for run in status.runs:
        told = run.training
        epoch = f"{told.done}/{told.epochs}" if told else ""
        loss, rate = (told.last.get(key) if told else None for key in ("loss", "images_per_second"))
        numbers = ("" if loss is None else f"{loss:.3f}", "" if rate is None else f"{rate:.0f}")
        left = duration(run.left) if run.left and run.state != "failed" else ""
        table.add_row(run.name, run.state, epoch, *numbers, left, run.note)
    return table
