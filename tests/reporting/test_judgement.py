import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from hirl.reporting.judgement import ALL_METHODS, COLUMNS, holm, judge, markdown
from hirl.reporting.table import COLUMNS as SUMMARY

BASELINES = {"mocov2": [30.0, 32.0, 31.0, 33.0], "dino": [50.0, 51.0, 49.0, 52.0]}


def summary_of(gains: dict[str, list[float]], variant: str = "hirl", task: str = "knn", metric: str = "top1"):
    """Return a summary in which each method's variant is its baseline plus a gain per seed."""
    rows = []
    for method, given in gains.items():
        for seed, gain in enumerate(given):
            for name, value in (("baseline", 0.0), (variant, gain)):
                number = BASELINES[method][seed] + value
                rows.append(["study", "data", method, name, "net", seed, task, metric, number])
    return pd.DataFrame(rows, columns=SUMMARY)


def line_of(judged: pd.DataFrame, method: str) -> pd.Series:
    return judged[judged["method"] == method].iloc[0]


def test_a_steady_gain_is_a_gain_and_a_scattered_one_is_undecided() -> None:
    judged = judge(summary_of({"mocov2": [2.0, 2.1, 1.9, 2.0], "dino": [3.0, -3.0, 4.0, -2.0]}))
    assert line_of(judged, "mocov2")["verdict"] == "gain"
    assert line_of(judged, "dino")["verdict"] == "undecided"


def test_a_steady_loss_is_a_loss() -> None:
    judged = judge(summary_of({"mocov2": [-2.0, -2.1, -1.9, -2.0]}))
    assert line_of(judged, "mocov2")["verdict"] == "loss"


def test_the_interval_is_students_over_the_paired_gains() -> None:
    gains = [1.0, 2.0, 4.0, 3.0]
    line = line_of(judge(summary_of({"mocov2": gains})), "mocov2")
    assert line["gain"] == pytest.approx(2.5)
    assert line["half"] == pytest.approx(t.ppf(0.975, 3) * np.std(gains, ddof=1) / 2)
    assert line["seeds"] == 4
    assert line["baseline"] == pytest.approx(np.mean(BASELINES["mocov2"]))


def test_all_methods_are_judged_by_their_mean_gain_within_each_seed() -> None:
    judged = judge(summary_of({"mocov2": [1.0, 2.0, 1.0, 2.0], "dino": [3.0, 2.0, 3.2, 2.0]}))
    assert line_of(judged, ALL_METHODS)["gain"] == pytest.approx(np.mean([2.0, 2.0, 2.1, 2.0]))
    assert line_of(judged, ALL_METHODS)["verdict"] == "gain"


def test_one_seed_judges_nothing() -> None:
    judged = judge(summary_of({"mocov2": [2.0]}))
    assert judged.empty
    assert list(judged) == COLUMNS


def test_seeds_without_a_partner_are_left_out() -> None:
    both = summary_of({"mocov2": [2.0, 2.1, 1.9, 2.0]})
    lonely = both[~((both["variant"] == "hirl") & (both["seed"] == 3))]
    assert line_of(judge(lonely), "mocov2")["seeds"] == 3


def test_variants_are_corrected_and_shown_apart() -> None:
    steady = {"mocov2": [2.0, 2.1, 1.9, 2.0]}
    own = summary_of({"mocov2": [0.1, -0.1, 0.2, -0.2]}, variant="hirl-random")
    judged = judge(pd.concat([summary_of(steady), own[own["variant"] != "baseline"]]))
    assert list(judged["variant"]) == ["hirl", "hirl-random"]
    assert list(judged["verdict"]) == ["gain", "undecided"]
    assert "**gain**" in markdown(judged)
    assert "HIRL-random" in markdown(judged)


def test_holm_multiplies_the_smallest_p_value_by_their_number_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
