"""Say in plain words what a study found, with its interval, or that one seed cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    if judged.empty:
        return Answer("Not known: with one seed there is no spread to judge by.", _counts(table))
    over_methods = judged[judged["method"] == ALL_METHODS]
    lines = judged if over_methods.empty else over_methods
    methods = judged[judged["method"] != ALL_METHODS]
    where = f"over {in_words(methods['method'].nunique())} methods" if len(over_methods) else "for the one method"
    few = lines["variant"].nunique() <= FEW
    sentences = _by_variant(lines, where) if few else _by_outcome(lines, where)
    return Answer(_in_short(set(lines["verdict"])), [*sentences, *_single_methods(methods, few)])


def _in_short(verdicts: set[str]) -> str:
    if {"gain", "loss"} <= verdicts:
        return "It depends."
    if "gain" in verdicts:
        return "In part." if "undecided" in verdicts else "Yes."
    return "No, the numbers fall." if "loss" in verdicts else "Undecided: the intervals hold zero."


def _by_variant(lines: pd.DataFrame, where: str) -> list[str]:
    """Return a sentence per variant, with its gain in each outcome."""
    return [
        f"{variant_title(variant)}, mean {where}: {_join([f'{_outcome(line)} {_gain(line)}' for line in own])}."
        for variant, own in _grouped(lines, "variant")
    ]


def _by_outcome(lines: pd.DataFrame, where: str) -> list[str]:
    """Return a sentence per outcome, with the variants that gain, lose or stay undecided."""
    found = []
    for _, own in _grouped(lines.assign(outcome=lines["task"] + lines["metric"]), "outcome"):
        parts = []
        for verdict in VERDICTS:
            titles = [f"{variant_title(line.variant)} ({_interval(line)})" for line in own if line.verdict == verdict]
            parts += [f"{verdict} for {_join(titles)}"] if titles else []
        found.append(f"{_outcome(own[0])}, mean {where}: {'; '.join(parts)}.")
    return found


def _single_methods(lines: pd.DataFrame, few: bool) -> list[str]:
    """Count the verdicts on single methods, by variant if there are few."""
    groups = _grouped(lines, "variant") if few else [("all variants", list(lines.itertuples()))]
    found = []
    for variant, own in groups:
        counts = [f"{n} {verdict}" for verdict in VERDICTS if (n := sum(line.verdict == verdict for line in own))]
        found.append(f"Single methods, {variant_title(variant)}: {_join(counts)} of {len(own)} comparisons.")
    return found


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


def _grouped(lines: pd.DataFrame, column: str) -> list[tuple[str, list]]:
    return [(name, list(group.itertuples())) for name, group in lines.groupby(column, sort=False)]


def _outcome(line) -> str:
    return plain(TITLES[line.task, line.metric])


def _interval(line) -> str:
    return f"{line.gain:+.1f} ± {line.half:.1f}".replace("-", "−")


def _gain(line) -> str:
    return f"{_interval(line)} points ({line.verdict})"


def _join(parts: Sequence[str]) -> str:
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
    listed = f"{found[0]} to {found[-1]}" if consecutive else _join([str(seed) for seed in found])
    return f"{in_words(len(found))} seed{'s' if len(found) != 1 else ''} ({listed})"
