"""Where does the time of the demo study go?

    python benchmarks/study.py [--results results/demo]

Nothing is run: the seconds are those that Snakemake recorded when the study was made. Jobs run in parallel, so their
sum is more than the study took.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path

from common import Report, Row, parser

METADATA = Path(".snakemake/metadata")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--results", type=Path, default=Path("results/demo"))
    args = options.parse_args()
    report = Report(args)
    spent = seconds_of_jobs(args.results)
    if spent:
        report.table(shares(spent), f"Jobs of {args.results}")
    else:
        report.remark(f"There is no {args.results}: `make reproduce` makes it.")


def shares(spent: dict[str, list[float]]) -> list[Row]:
    """Return a row for each kind of job, the longest first."""
    total = sum(map(sum, spent.values()))
    return [
        {"": kind, "jobs": len(seconds), "seconds": sum(seconds), "share": f"{100 * sum(seconds) / total:.0f} %"}
        for kind, seconds in sorted(spent.items(), key=lambda item: -sum(item[1]))
    ]


def seconds_of_jobs(results: Path) -> dict[str, list[float]]:
    """Return the seconds of each rule's jobs; a job, known by its log, counts once even if it made several files."""
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
    """Return the file that a record of Snakemake is about, from its name in base 64; long names are split by @."""
    parts = path.relative_to(METADATA).parts
    return Path(base64.urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode())


if __name__ == "__main__":
    main()
