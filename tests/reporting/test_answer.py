"""The answer says in words what the verdicts say, and of one seed that it cannot tell."""

from __future__ import annotations

import pandas as pd
import pytest

from hirl.config.tasks import TASKS
from hirl.reporting.answer import answer, in_words, seeds_in_words
from hirl.reporting.judgement import ALL_METHODS, COLUMNS
from hirl.reporting.table import Cell, Row, Table

KNN = TASKS["knn"].shown[0]
EMPTY = pd.DataFrame(columns=COLUMNS)
Line = tuple[str, str, str, float, str]  # variant, method, task, gain, verdict


def table_of(*gains: float) -> Table:
    """Return a study of one seed with a method per gain."""
    rows = [Row(f"method{number}", "net", {(KNN, "gain"): Cell(gain, 1)}) for number, gain in enumerate(gains)]
    return Table([KNN], rows)


def judged_of(*lines: Line) -> pd.DataFrame:
    metrics = {"knn": "top1", "clustering": "ami"}
    rows = [
        [variant, method, task, metrics[task], 5, 40.0, gain, 0.5, 0.01, 0.02, verdict]
        for variant, method, task, gain, verdict in lines
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def pooled(variant: str, knn: tuple[float, str], ami: tuple[float, str]) -> list[Line]:
    """Return the lines of two methods, undecided in kNN, and of their means."""
    singles = [(variant, method, "knn", 0.3, "undecided") for method in ("dino", "swav")]
    return [*singles, (variant, ALL_METHODS, "knn", *knn), (variant, ALL_METHODS, "clustering", *ami)]


def test_one_seed_cannot_tell_and_calls_nothing_a_gain() -> None:
    found = answer(table_of(1.0, -2.0, 0.0, 3.0), EMPTY)
    assert found.short == "Not known: one seed shows no spread."
    assert found.sentences[0] == "HIRL is higher than its baseline in 2 of 4 comparisons, lower in 1 and equal in 1."


def test_a_study_without_pairs_compares_nothing() -> None:
    assert answer(table_of(), EMPTY).short == "Nothing is compared."


def test_a_variant_has_its_mean_gains_with_intervals_and_the_count_of_its_methods() -> None:
    judged = judged_of(*pooled("hirl", (1.2, "gain"), (-0.1, "undecided")))
    found = answer(table_of(1.0), judged)
    assert found.short == "In part."
    assert found.sentences == [
        "HIRL, mean over two methods: kNN top-1 +1.2 ± 0.5 points (gain) and Clustering AMI -0.1 ± 0.5 points "
        "(undecided). Method by method: 2 undecided, of 2 comparisons."
    ]


@pytest.mark.parametrize(
    ("knn", "ami", "short"),
    [
        ("gain", "gain", "Yes."),
        ("gain", "loss", "It depends."),
        ("loss", "undecided", "No, the numbers fall."),
        ("undecided", "undecided", "Undecided: the intervals hold zero."),
    ],
)
def test_the_short_answer_follows_the_verdicts_over_all_methods(knn: str, ami: str, short: str) -> None:
    judged = judged_of(*pooled("hirl", (1.0, knn), (1.0, ami)))
    assert answer(table_of(1.0), judged).short == short


def test_two_variants_are_answered_one_by_one() -> None:
    first = pooled("hirl", (0.1, "undecided"), (0.1, "undecided"))
    judged = judged_of(*first, *pooled("hirl-invariant", (2.0, "gain"), (2.0, "gain")))
    found = answer(table_of(1.0), judged)
    assert found.short == "HIRL: undecided: the intervals hold zero. HIRL-invariant: yes."
    assert [sentence.split(",")[0] for sentence in found.sentences] == ["HIRL", "HIRL-invariant"]


def test_many_variants_are_grouped_by_verdict_in_each_outcome() -> None:
    means = {"hirl": (0.1, "undecided"), "hirl-classes": (4.0, "gain"), "hirl-random": (-2.0, "loss")}
    judged = judged_of(*(line for variant, mean in means.items() for line in pooled(variant, mean, mean)))
    assert answer(table_of(1.0), judged).sentences[0] == (
        "kNN top-1, mean over two methods: gain for HIRL-classes (+4.0 ± 0.5); loss for HIRL-random (-2.0 ± 0.5); "
        "undecided for HIRL (+0.1 ± 0.5)."
    )


def test_a_study_of_one_method_is_answered_by_its_own_verdicts() -> None:
    found = answer(table_of(1.0), judged_of(("hirl", "dino", "knn", 1.0, "gain")))
    assert found.short == "Yes."
    assert found.sentences[0].startswith("HIRL, by method: kNN top-1 +1.0 ± 0.5 points (gain).")


@pytest.mark.parametrize(
    ("seeds", "words"),
    [([0], "one seed (0)"), ([0, 7], "two seeds (0 and 7)"), ([2, 0, 1, 1], "three seeds (0 to 2)"), ([], "no seed")],
)
def test_seeds_are_said_in_words(seeds: list[int], words: str) -> None:
    assert seeds_in_words(seeds) == words


def test_large_numbers_stay_digits() -> None:
    assert (in_words(12), in_words(1300)) == ("twelve", "1,300")
