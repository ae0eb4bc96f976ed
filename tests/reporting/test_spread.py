"""What retraining alone changes is the baselines' spread over seeds, pooled over the methods."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from hirl.config.tasks import TASKS
from hirl.reporting.spread import UNKNOWN, markdown, spreads

KNN = TASKS["knn"].shown[0]
NUMBERS = {"mocov2": [30.0, 32.0, 31.0], "dino": [50.0, 54.0]}


def summary_of(numbers: dict[str, list[float]], variant: str = "baseline") -> pd.DataFrame:
    rows = [(name, variant, "knn", "top1", value) for name, values in numbers.items() for value in values]
    return pd.DataFrame(rows, columns=["method", "variant", "task", "metric", "value"])


def test_variances_are_pooled_by_their_degrees_of_freedom() -> None:
    (found,) = spreads(summary_of(NUMBERS), [KNN])
    deviations = np.concatenate([np.subtract(values, np.mean(values)) for values in NUMBERS.values()])
    assert found.deviation == pytest.approx(np.sqrt(np.sum(deviations**2) / 3))
    assert (found.freedom, found.methods) == (3, 2)
    assert found.chance_difference == pytest.approx(t.ppf(0.975, 3) * np.sqrt(2) * found.deviation)


def test_chance_differences_hold_95_percent_of_the_differences_between_two_trainings() -> None:
    generator = np.random.default_rng(0)
    (found,) = spreads(summary_of({str(method): generator.normal(40, 2, 5).tolist() for method in range(200)}), [KNN])
    differences = np.abs(np.diff(generator.normal(40, 2, (20000, 2)), axis=1))
    assert np.mean(differences < found.chance_difference) == pytest.approx(
        0.95, abs=0.02
    )  # 800 degrees: 2 % of a width


def test_other_variants_and_methods_with_one_seed_are_left_out() -> None:
    others = pd.concat([summary_of(NUMBERS), summary_of({"mocov2": [0.0, 90.0]}, "hirl"), summary_of({"swav": [1.0]})])
    assert spreads(others, [KNN]) == spreads(summary_of(NUMBERS), [KNN])


def test_one_seed_has_no_spread() -> None:
    assert spreads(summary_of({"mocov2": [30.0], "dino": [50.0]}), [KNN]) == []
    assert markdown([]).strip() == UNKNOWN
    assert "| kNN top-1 |" in markdown(spreads(summary_of(NUMBERS), [KNN]))
