from pathlib import Path

import pandas as pd
from PIL import Image

from hirl.reporting.gate import gate, points_of
from hirl.reporting.table import COLUMNS, collect

VARIANTS = {"baseline": (40.0, None), "hirl": (39.0, 20.0), "hirl-random": (37.0, 0.0), "hirl-classes": (46.0, 100.0)}


def summary() -> pd.DataFrame:
    rows = []
    for variant, (top1, agreement) in VARIANTS.items():
        for seed in (0, 1):
            where = ["study", "data", "mocov2", variant, "resnet18", seed]
            rows.append([*where, "knn", "top1", top1 + seed])
            rows += [] if agreement is None else [[*where, "hierarchy", "ami_level0", agreement]]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_points_are_paired_gains_in_the_order_of_agreement() -> None:
    points = points_of(summary(), "mocov2", [*VARIANTS][1:])
    found = [(variant, agreement.mean, gain.mean, gain.n) for variant, agreement, gain in points]
    assert found == [("hirl-random", 0, -3, 2), ("hirl", 20, -1, 2), ("hirl-classes", 100, 6, 2)]


def test_variants_without_an_evaluation_are_left_out() -> None:
    partial = summary().query("variant != 'hirl' or task != 'hierarchy'")
    assert [variant for variant, *_ in points_of(partial, "mocov2", [*VARIANTS][1:])] == ["hirl-random", "hirl-classes"]


def test_the_figure_has_a_panel_per_method(evaluations, tmp_path: Path) -> None:
    runs = {
        f"{method}-{variant}-s0": {"knn": {"top1": 50.0}}
        | ({"hierarchy": {"ami_level0": 30.0}} if variant != "baseline" else {})
        for method in ("mocov2", "swav")
        for variant in ("baseline", "hirl", "hirl-flat", "hirl-random")
    }
    study = evaluations(runs)
    collect(study, runs, ["knn", "hierarchy"]).to_csv(study / "summary.csv", index=False)
    gate(study, list(runs), tmp_path / "gate.png")
    with Image.open(tmp_path / "gate.png") as image:
        assert image.width > 1.5 * image.height
