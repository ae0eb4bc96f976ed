"""The README and its page of details are filled from a finished study, without a number typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hirl.config.tasks import TASKS
from hirl.reporting.table import Cell, Row, Table
from hirl.tracking.record import environment
from workflow.show_results import Study, copy_figure, fill, finding, show

KNN = TASKS["knn"].shown[0]
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
    (details.parent / "reading.md").write_text("![curves](images/training.png)\n")
    readme.write_text(README)
    details.write_text(DETAILS)
    return readme, details


def study_of(*gains: float, seeds: int = 1) -> Study:
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
    return Study("demo", Table([KNN], rows), [RECORD], "")


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
    copied = {path.name for path in (tmp_path / "images").iterdir()}
    assert copied == {"gains.png", "atlas-ibot-hirl-s0.png", "training.png"}  # of all pages beside it


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


def test_the_finding_of_one_seed_counts_comparisons_and_calls_none_a_gain():
    assert finding(study_of(1.2, -0.4, -3.0, 0.0)) == (
        "On the demo study (4 methods, 1 metrics, one seed, 2 cores of Quick CPU), HIRL is above its baseline in "
        "1 of 4 comparisons, below in 2 and equal in 1. With one seed no spread is known, so none of these differences "
        "is called a gain or a loss."
    )


def test_the_finding_over_seeds_counts_gains_whose_interval_holds_zero_as_undecided():
    said = finding(study_of(1.2, -0.4, seeds=3))  # half an interval is 0.5
    assert said.startswith("On the demo study (2 methods, 1 metrics, 3 seeds, ")
    assert said.endswith("above its baseline in 1 of 2 comparisons, below in 0 and undecided in 1.")
