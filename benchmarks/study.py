"""How long does `make reproduce` take?

    python benchmarks/study.py [--results results/demo]

Nothing is run: times are those that Snakemake and the trainings recorded when the study was made. If `make reproduce`
made the environment too, the minutes count from then on, installation included; otherwise from the first job, without
the pauses in which no job ran. Jobs run in parallel, so that their seconds add up to more than that. A training's
start, imports included, is the time from its job's launch to the first line of its record.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import Report, Row, parser

METADATA = Path(".snakemake/metadata")
ENVIRONMENT = Path(".venv")
LONGEST_MINUTES = 10
LONGEST_PAUSE = 120  # seconds from the environment to the first job, if one command made both


class Job(NamedTuple):
    """A job of Snakemake, with the times of its start and end in seconds, and its first output."""

    rule: str
    start: float
    end: float
    output: Path


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--results", type=Path, default=Path("results/demo"))
    args = options.parse_args()
    jobs = jobs_of(args.results)
    if not jobs:
        print(f"There is no {args.results}: `make reproduce` makes it.")
        return
    report, spent = Report(args), sum(job.end - job.start for job in jobs)
    before = seconds_before(jobs[0].start)
    minutes = ((before or 0) + seconds_with_a_job(jobs)) / 60
    what = "with" if before is not None else "without"
    cores = report.found["where"]["cores"]
    limit = f"the jobs alone fill {cores} cores for {spent / 60 / cores:.1f} min"
    report.goal(f"`make reproduce`, {what} installation", minutes, at_most=LONGEST_MINUTES, unit=" min", limit=limit)
    report.table(shares(jobs, spent), f"{len(jobs)} jobs of {args.results}", folded=False)
    starts = seconds_to_start(jobs)
    if starts:
        share = 100 * sum(starts.values()) / sum(job.end - job.start for job in starts)
        what = f"A training starts in {median(starts.values()):.1f} s (median, n = {len(starts)})"
        report.remark(f"{what}, {share:.0f} % of its job's time.")
    if before is not None:
        report.remark(f"Installation and Snakemake's own start: {before / 60:.1f} minutes.")


def shares(jobs: list[Job], spent: float) -> list[Row]:
    """Return a row for each rule, the longest first; those below 2 % are one row."""
    seconds: dict[str, list[float]] = {}
    for job in jobs:
        seconds.setdefault(job.rule, []).append(job.end - job.start)
    large = {rule: taken for rule, taken in seconds.items() if sum(taken) >= 0.02 * spent}
    rows = dict(sorted(large.items(), key=lambda item: -sum(item[1])))
    rows["others"] = [second for rule, taken in seconds.items() if rule not in large for second in taken]
    return [
        {"step": rule, "jobs": len(taken), "seconds": sum(taken), "share": f"{100 * sum(taken) / spent:.0f} %"}
        for rule, taken in rows.items()
        if taken
    ]


def seconds_before(first_start: float) -> float | None:
    """Return the seconds from the environment's creation to the first job, or None if it was made at another time."""
    created, ready = ENVIRONMENT / "pyvenv.cfg", ENVIRONMENT / ".synced"
    if not (created.exists() and ready.exists()):
        return None
    one_command = 0 <= first_start - ready.stat().st_mtime <= LONGEST_PAUSE
    return first_start - created.stat().st_mtime if one_command else None


def seconds_with_a_job(jobs: list[Job]) -> float:
    """Return the seconds in which at least one job ran; jobs are in the order of their starts."""
    total, last = 0.0, 0.0
    for job in jobs:
        total += max(0.0, job.end - max(job.start, last))
        last = max(last, job.end)
    return total


def seconds_to_start(jobs: list[Job]) -> dict[Job, float]:
    """Return the seconds from the launch of each training to the first line of its record."""
    found = {}
    for job in jobs:
        record = job.output.parent / "record.jsonl"
        if job.output.name == "weights.safetensors" and record.exists():
            times = [json.loads(line)["time"] for line in record.read_text().splitlines()]
            own = [time for time in times if job.start <= time <= job.end]
            found |= {job: own[0] - job.start} if own else {}
    return found


def jobs_of(results: Path) -> list[Job]:
    """Return the jobs that made a study, by their starts; a job, known by its log, counts once for all its files."""
    jobs = {}
    for path in sorted(METADATA.rglob("*")):
        job = json.loads(path.read_text()) if path.is_file() else {}
        output = output_of(path)
        if job.get("endtime") and results in output.parents:
            key = (job["rule"], *job["log"])
            if key not in jobs or output.name == "weights.safetensors":
                jobs[key] = Job(job["rule"], job["starttime"], job["endtime"], output)
    return sorted(jobs.values(), key=lambda job: job.start)


def output_of(path: Path) -> Path:
    """Return the file that a record of Snakemake is about, from its name in base 64; long names are split by @."""
    parts = path.relative_to(METADATA).parts
    return Path(base64.urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode())


if __name__ == "__main__":
    main()
