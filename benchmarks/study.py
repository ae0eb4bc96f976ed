"""Where does the time of the demo study go?

    python benchmarks/study.py [--results results/demo]

Nothing is run: the seconds are those that Snakemake and the runs themselves wrote down when the study was made. Jobs
run side by side, so that their sum is more than the study took.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import Report, Row, parser

from hirl.record import read_record

METADATA = Path(".snakemake/metadata")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--results", type=Path, default=Path("results/demo"))
    args = options.parse_args()
    report = Report(args)
    records = {path.parent.name: read_record(path) for path in sorted(args.results.glob("runs/*/record.jsonl"))}
    if not records:
        report.remark(f"There is no {args.results}: `make reproduce` makes it.")
        return
    if spent := seconds_of_jobs(args.results):
        report.table(shares(spent), f"Jobs of {args.results}")
    report.table(pretrainings(records), "Pre-trainings, and what HIRL adds to an epoch once it has its first tree")


def shares(spent: dict[str, list[float]]) -> list[Row]:
    """One line for each kind of job, the longest first."""
    total = sum(map(sum, spent.values()))
    return [
        {"": kind, "jobs": len(seconds), "seconds": sum(seconds), "share": f"{100 * sum(seconds) / total:.0f} %"}
        for kind, seconds in sorted(spent.items(), key=lambda item: -sum(item[1]))
    ]


def seconds_of_jobs(results: Path) -> dict[str, list[float]]:
    """Seconds of the jobs of each rule; a job, known by its log, counts once however many files it made."""
    jobs = {}
    for path in METADATA.rglob("*"):
        job = json.loads(path.read_text()) if path.is_file() else {}
        if job.get("endtime") and results in output_of(path).parents:
            jobs[job["rule"], *job["log"]] = job["endtime"] - job["starttime"]
    spent = defaultdict(list)
    for (rule, *_), seconds in jobs.items():
        spent[rule].append(seconds)
    return spent


def output_of(path: Path) -> Path:
    """The file that Snakemake's record is about: its name in base 64, a long one in folders that begin with @."""
    parts = path.relative_to(METADATA).parts
    return Path(base64.urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode())


def pretrainings(records: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """One line for each method and seed that has both variants."""
    rows = []
    for name, record in records.items():
        baseline = records.get(name.replace("-hirl-", "-baseline-"))
        if "-hirl-" not in name or baseline is None:
            continue
        plain, hirl = epochs(baseline), epochs(record)
        with_tree = [row for row in hirl if "path_loss" in row]
        rates = [sum(row["images_per_second"] for row in part) / len(part) for part in (plain, with_tree)]
        rows.append(
            {"": name.replace("-hirl", ""), "epochs": len(hirl)}
            | {"baseline, s": total(plain), "hirl, s": total(hirl), "hirl takes": total(hirl) / total(plain)}
            | {"baseline, images/s": rates[0], "hirl with a tree, images/s": rates[1]}
        )
    return rows


def epochs(record: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [line["values"] for line in record if line["kind"] == "metrics"]


def total(rows: list[dict[str, float]]) -> float:
    return sum(row["seconds"] for row in rows)


if __name__ == "__main__":
    main()
