"""The README and its page of details are filled from a finished study, without a number typed by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hirl.config.tasks import TASKS
from hirl.reporting.table import Cell, Row, Table
from hirl.tracking.record import environment
from workflow.show_results import Study, copy_figure, fill, finding, noise_floor, show, spread, ties

KNN, AP = TASKS["knn"].shown[0], TASKS["detection"].shown[0]
README = """# A project
<!-- finding -->
an old finding
<!-- /finding -->
![gains](docs/images/gains.png)
<!-- results -->
an old table
<!-- /results -->
The end.
"""
DETAILS = "# Results\n<!-- results -->\n<!-- /results -->\n![atlas](images/atlas-ibot-hirl-s0.png)\n"
WHERE = {"cores": 2, "processor": "Quick CPU", "gpu": "none", "torch": "2.9", "git_commit": "0123456789abcdef"}
RECORD = [
    {"kind": "params", "epoch": 0, "time": 100.0, "values": {"environment": WHERE}},
    {"kind": "end", "epoch": 1, "time": 142.0, "values": {}},
]


@pytest.fixture
def pages(tmp_path: Path) -> tuple[Path, Path]:
    readme, details = tmp_path / "README.md", tmp_path / "docs" / "results_demo.md"
    details.parent.mkdir()
    readme.write_text(README)
    details.write_text(DETAILS)
    return readme, details


def study_of(*gains: float, floor: float | None = None, seeds: int = 1) -> Study:
    """Return a study of one metric with a method per gain."""
    cell = {"half": None if seeds == 1 else 0.5, "n": seeds}
    rows = [
        Row(
            f"method{number}",
            "resnet8",
            {
                (KNN, "baseline"): Cell(50.0, **cell),
                (KNN, "hirl"): Cell(50.0 + gain, **cell),
                (KNN, "gain"): Cell(gain, **cell),
            },
        )
        for number, gain in enumerate(gains)
    ]
    floors = {} if floor is None else {KNN: floor}
    return Study("demo", Table([KNN], rows), [RECORD], floors, Path("weights/demo/summary.csv"), "")


def test_both_pages_are_filled_and_a_second_call_replaces_the_first(study, drawn, pages, tmp_path):
    folder, _ = study
    readme, details = pages
    for _ in range(2):
        show(folder, readme, details, tmp_path / "images")
    text = readme.read_text()
    assert "old" not in text
    assert text.startswith("# A project\n<!-- finding -->\n\nOn the demo study (2 methods, 14 metrics, 2 seeds, ")
    assert text.endswith("<!-- /results -->\nThe end.\n")
    for title in ("MoCo v2", "iBOT", "Untrained ResNet-18", "Untrained ViT-tiny"):
        assert text.count(f"| {title} ") == 1
    assert "mean ± 95 % interval, n = 2 seeds" in text
    assert environment()["processor"] in text
    filled = details.read_text()
    assert (folder / "table.md").read_text() in filled
    assert filled.count("\n8 pre-trainings in ") == 1
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"gains.png", "atlas-ibot-hirl-s0.png"}


def test_an_unfinished_study_leaves_the_pages_alone(pages, tmp_path):
    with pytest.raises(ValueError, match="holds no finished study: run `make reproduce` first"):
        show(tmp_path / "demo", *pages, tmp_path / "images")
    assert [page.read_text() for page in pages] == [README, DETAILS]


def test_a_page_without_markers_is_named_and_no_page_is_changed(study, drawn, pages, tmp_path):
    readme, details = pages
    details.write_text("# Results\n")
    with pytest.raises(ValueError, match=r"results_demo\.md has no lines <!-- results --> and <!-- /results -->"):
        show(study[0], readme, details, tmp_path / "images")
    assert readme.read_text() == README


def test_text_with_backslashes_is_filled_in_as_it_is(tmp_path):
    (tmp_path / "page.md").write_text("<!-- a -->\n<!-- /a -->\n")
    assert fill(tmp_path / "page.md", {"a": r"\1 \g<0>"}) == "<!-- a -->\n\n\\1 \\g<0>\n\n<!-- /a -->\n"


def test_a_figure_that_was_not_drawn_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gains\.png is missing"):
        copy_figure(tmp_path / "gains.png", tmp_path / "copy.png")


def test_a_copied_figure_keeps_its_size(drawn, tmp_path):
    copy_figure(drawn["gains.png"], tmp_path / "copy.png")
    assert (tmp_path / "copy.png").stat().st_size < drawn["gains.png"].stat().st_size
    assert Image.open(tmp_path / "copy.png").size == Image.open(drawn["gains.png"]).size


def test_the_finding_counts_comparisons_and_those_within_the_noise_floor():
    assert finding(study_of(1.2, -0.4, -3.0, 0.0, floor=0.5)) == (
        "On the demo study (4 methods, 1 metrics, one seed, 2 cores of Quick CPU), HIRL is above its baseline in "
        "1 of 4 comparisons, below in 2 and equal in 1; 2 differences are within the noise floor."
    )


def test_the_finding_over_seeds_counts_gains_whose_interval_holds_zero_as_undecided():
    said = finding(study_of(1.2, -0.4, seeds=3))  # half an interval is 0.5
    assert said.startswith("On the demo study (2 methods, 1 metrics, 3 seeds, ")
    assert said.endswith("above its baseline in 1 of 2 comparisons, below in 0 and undecided in 1.")


def test_the_finding_without_published_weights_leaves_the_noise_floor_out():
    assert finding(study_of(1.2)).endswith("in 1 of 1 comparisons, below in 0 and equal in 0.")


def test_a_gain_as_large_as_the_noise_floor_is_a_tie():
    study = study_of(0.5, -0.5, 0.6, floor=0.5)
    assert ties(study.table, study.floor) == 2
    assert ties(study.table, {}) == 0


def test_the_noise_floor_is_the_largest_difference_of_each_metric_over_the_trained_runs():
    columns = ["method", "variant", "seed", "task", "metric", "value"]
    trained = [
        ["dino", "baseline", 0, "knn", "top1", 20.0],
        ["dino", "hirl", 0, "knn", "top1", 30.0],
        ["dino", "hirl", 0, "detection", "ap_box", 9.0],
        ["dino", "hirl", 0, "knn", "top1_k10", 0.0],  # not in the table
        ["untrained", "control", 0, "knn", "top1", 10.0],
    ]
    rounded = [[*row[:5], row[5] + moved] for row, moved in zip(trained, (0.5, -1.5, 2.0, 50.0, 60.0), strict=True)]
    frames = [pd.DataFrame(rows, columns=columns) for rows in (trained, rounded)]
    assert noise_floor(Table([KNN, AP], []), *frames) == {KNN: 1.5, AP: 2.0}


def test_the_spread_says_that_the_noise_floor_is_a_lower_bound():
    said = spread(study_of(0.2, floor=0.5))
    assert "With one seed the spread over seeds is unknown." in said
    assert "Treat differences below the noise floor as ties (1 of 1 here)" in said
    assert "| kNN top-1 |           0.5 |" in said
    assert "lower bound of the spread" in said
    assert "Noise floor" not in spread(study_of(0.2, seeds=3))
