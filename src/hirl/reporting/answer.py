"""Say in plain words what a study found, with its interval, or that one seed cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hirl.config.tasks import METRICS
from hirl.reporting.judgement import ALL_METHODS, VERDICTS
from hirl.reporting.runs import Run
from hirl.reporting.table import Table
from hirl.reporting.titles import plain, variant_title

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
FEW = 2  # variants that have a sentence each; more have a sentence for each outcome
TITLES = {(metric.task, metric.name): metric.title for metric in METRICS}


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        short: in a few words.
        sentences: the numbers behind it.
    """

    short: str
    sentences: list[str]


def answer(table: Table, judged: pd.DataFrame) -> Answer:
    """Return the answer of a study: from its verdicts, or, where there are none, that one seed cannot tell."""
    if not any(table.gains(variant) for variant in table.variants):
        return Answer("Nothing is compared.", ["No variant was evaluated beside its baseline."])
    if judged.empty:
        return Answer("Not known: one seed shows no spread.", _counts(table))
    over_methods = judged[judged["method"] == ALL_METHODS]
    lines = judged if over_methods.empty else over_methods
    methods = judged[judged["method"] != ALL_METHODS]
    where = f"mean over {in_words(methods['method'].nunique())} methods" if len(over_methods) else "by method"
    if lines["variant"].nunique() > FEW:
        return Answer(_in_short(lines), [*_by_outcome(lines, where), _count(methods)])
    return Answer(_in_short_by_variant(lines), _by_variant(lines, methods, where))


def _in_short(lines: pd.DataFrame) -> str:
    verdicts = set(lines["verdict"])
    if {"gain", "loss"} <= verdicts:
        return "It depends."
    if "gain" in verdicts:
        return "In part." if "undecided" in verdicts else "Yes."
    return "No, the numbers fall." if "loss" in verdicts else "Undecided: the intervals hold zero."


def _in_short_by_variant(lines: pd.DataFrame) -> str:
    """Return the short answer; of two variants, one each."""
    found = {variant_title(variant): _in_short(own) for variant, own in lines.groupby("variant")}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return " ".join(f"{title}: {said[0].lower()}{said[1:]}" for title, said in found.items())


def _by_variant(lines: pd.DataFrame, methods: pd.DataFrame, where: str) -> list[str]:
    """Return a sentence per variant: its gain in each outcome, and the verdicts on its single methods."""
    found = []
    for variant, own in lines.groupby("variant"):
        changes = [f"{_outcome(line)} {_interval(line)} points ({line.verdict})" for line in own.itertuples()]
        singles = methods[methods["variant"] == variant]
        found.append(f"{variant_title(variant)}, {where}: {join(changes)}. {_count(singles)}")
    return found


def _by_outcome(lines: pd.DataFrame, where: str) -> list[str]:
    """Return a sentence per outcome, with the variants that gain, lose or stay undecided."""
    found = []
    for _, own in lines.groupby(["task", "metric"], sort=False):
        parts = []
        for verdict in VERDICTS:
            of_verdict = own[own["verdict"] == verdict].itertuples()
            titles = [f"{variant_title(line.variant)} ({_interval(line)})" for line in of_verdict]
            parts += [f"{verdict} for {join(titles)}"] if titles else []
        found.append(f"{_outcome(next(own.itertuples()))}, {where}: {'; '.join(parts)}.")
    return found


def _count(methods: pd.DataFrame) -> str:
    """Count the verdicts on single methods."""
    counts = methods["verdict"].value_counts()
    plural = {"gain": "gains", "loss": "losses"}
    parts = [
        f"{counts[verdict]} {plural.get(verdict, verdict) if counts[verdict] > 1 else verdict}"
        for verdict in VERDICTS
        if verdict in counts
    ]
    return f"Method by method: {join(parts)}, of {len(methods)} comparisons."


def _counts(table: Table) -> list[str]:
    """Count the comparisons of one seed, without a judgement."""
    found = []
    for variant in table.variants:
        verdict = table.verdict(variant)
        found.append(
            f"{variant_title(variant)} is higher than its baseline in {verdict.above} of {verdict.total} comparisons, "
            f"lower in {verdict.below} and equal in {verdict.undecided}."
        )
    return [*found, "Another seed may turn any of them, so none is called a gain or a loss."]


def _outcome(line: Any) -> str:
    return plain(TITLES[line.task, line.metric])


def _interval(line: Any) -> str:
    return f"{line.gain:+.1f} ± {line.half:.1f}"


def join(parts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def question(runs: Iterable[Run], dataset: str) -> str:
    """Return the question that a study asks."""
    trained = [run for run in runs if run.trained]
    methods = len({run.method for run in trained})
    several = len({run.variant for run in trained if run.has_tree}) > FEW
    subject = "Which variant of HIRL improves" if several else "Does HIRL improve"
    return f"{subject} {in_words(methods)} self-supervised method{'s' if methods != 1 else ''} on {dataset}?"


def in_words(number: int) -> str:
    """Return a small number as a word, a larger one as digits."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def seeds_in_words(seeds: Iterable[int]) -> str:
    """Return `one seed (0)`, `three seeds (0 to 2)` or `two seeds (0 and 7)`."""
    found = sorted(set(seeds))
    if not found:
        return "no seed"
    consecutive = len(found) > 2 and found == list(range(found[0], found[-1] + 1))
    listed = f"{found[0]} to {found[-1]}" if consecutive else join([str(seed) for seed in found])
    return f"{in_words(len(found))} seed{'s' if len(found) != 1 else ''} ({listed})"
