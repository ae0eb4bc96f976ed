"""The authors' published numbers stand beside ours, complete, with their source and with what they compare to."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from hirl.config import CONFIG_ROOT
from hirl.reporting.paper import PAPER, compare, latex, markdown, numbers, read_paper
from hirl.reporting.table import collect, tabulate
from hirl.reporting.titles import METHOD_TITLES

HEAD = "method,variant,task,metric,value,source\n"
PUBLISHED = HEAD + "".join(
    f"{method},{variant},{task},top1,{value},a paper\n"
    for method, task, baseline, hirl in [
        ("swav", "knn", 60.25, 61.5),
        ("swav", "finetune", 75.0, 74.25),
        ("beit", "finetune", 80.0, 80.0),
    ]
    for variant, value in (("baseline", baseline), ("hirl", hirl))
)


@pytest.fixture
def published(tmp_path):
    """Return a function that writes a file of published numbers and returns its path."""

    def write(text: str = PUBLISHED):
        path = tmp_path / "paper.csv"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def comparison(evaluations, published):
    """Compare with a study that ran kNN of SwAV and of DINO, which has no published numbers."""
    runs = {f"{method}-{variant}-s0": {"knn": {"top1": value}} for method, variant, value in RAN}
    study = evaluations(runs)
    return compare(study, tabulate(study, collect(study, runs, ["knn"]), list(runs)), published())


RAN = [("swav", "baseline", 30.0), ("swav", "hirl", 28.75), ("dino", "baseline", 40.0), ("dino", "hirl", 41.0)]


def test_gains_are_those_of_the_published_numbers_and_what_was_not_run_stays_empty(comparison):
    found = numbers(comparison).set_index(["task", "method"])
    sides = [f"{side}_{part}" for side in ("paper", "ours") for part in ("baseline", "hirl", "gain")]
    assert list(found) == ["metric", *sides]
    assert found.loc[("knn", "swav"), sides].tolist() == [60.25, 61.5, 1.25, 30.0, 28.75, -1.25]
    assert found.loc[("finetune", "swav"), sides[:3]].tolist() == [75.0, 74.25, -0.75]
    assert found.loc[("finetune", "beit"), sides[:3]].tolist() == [80.0, 80.0, 0.0]
    assert found.loc["finetune", sides[3:]].isna().all(axis=None)  # we did not run it
    assert found.loc[("knn", "beit"), sides].isna().all()  # nor did they
    assert "dino" not in found.index.get_level_values("method")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_markdown_has_a_row_per_method(comparison):
    heads, _, *lines = markdown(comparison).splitlines()
    columns = [f"{name}<br>{side}" for name in ("kNN top-1", "Fine-tuning top-1") for side in ("paper", "ours")]
    assert cells_of(heads) == ["Method", *columns]
    assert [cells_of(line) for line in lines] == [
        ["SwAV", "60.25 → 61.50 (+1.25)", "30.0 → 28.8 (-1.2)", "75.00 → 74.25 (-0.75)", ""],
        ["BEiT", "", "", "80.00 → 80.00 (+0.00)", ""],
    ]


def test_latex_groups_methods_by_evaluation_and_leaves_out_empty_lines(comparison):
    lines = [line.removesuffix(r" \\") for line in latex(comparison).splitlines() if line.endswith(r"\\")]
    assert lines[2:] == [
        r"\multicolumn{7}{l}{\textit{kNN top-1}}",
        r"SwAV & 60.25 & 61.50 & +1.25 & 30.0 & 28.8 & $-$1.2",
        r"\multicolumn{7}{l}{\textit{Fine-tuning top-1}}",
        r"SwAV & 75.00 & 74.25 & $-$0.75 &  &  & ",
        r"BEiT & 80.00 & 80.00 & +0.00 &  &  & ",
    ]


@pytest.mark.parametrize(
    ("classes", "images", "said"),
    [
        (36, 3600, "Ours are on taxonomy (3,600 training images of 32 px, 36 classes). The two are not comparable"),
        (1000, 100_000, "Ours are on taxonomy (100,000 training images of 32 px, 1000 classes). The two are not"),
        (1000, 1_281_167, "Ours are on the same number of training images and classes."),
    ],
)
def test_the_note_names_the_images_of_the_study(evaluations, published, classes, images, said):
    study = evaluations({"swav-hirl-s0": {"knn": {"top1": 30.0}}})
    data = {"dataset": "taxonomy", "image_size": 32, "levels": ["class"], "class_names": [["a"] * classes]}
    (study / "data").mkdir()
    (study / "data" / "manifest.json").write_text(json.dumps(data | {"splits": {"train": images}}))
    runs = ["swav-hirl-s0"]
    note = compare(study, tabulate(study, collect(study, runs, ["knn"]), runs), published()).note
    assert said in note
    assert "(a paper), on ImageNet-1k" in note


def test_only_metrics_with_numbers_of_our_own_are_shared(comparison):
    assert [metric.title for metric in comparison.shared] == ["kNN top-1"]


def test_the_note_says_when_the_data_is_not_at_hand(comparison):
    assert "The data of this study is not at hand" in comparison.note


def test_the_published_numbers_are_complete_and_each_names_its_source():
    found = read_paper()
    assert PAPER == CONFIG_ROOT / "paper.csv"
    assert set(found["method"]) == set(METHOD_TITLES) - {"untrained"}
    assert found["value"].between(50, 90).all()
    assert found["source"].str.fullmatch(r"github\.com/hirl-team/HIRL at [0-9a-f]{12}: README\.md").all()
    assert (found.groupby(["method", "task", "metric"])["variant"].nunique() == 2).all()
    (row,) = found.query("method == 'ibot' and variant == 'hirl' and task == 'linear'").to_dict("records")
    assert row["value"] == 79.36


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PUBLISHED + "swav,hirl,knn,top1,1.0,twice\n", "line 8: swav, hirl, knn, top1 is unknown or appears twice"),
        (HEAD + "swav,mine,knn,top1,1.0,x\n", "line 2: swav, mine, knn, top1 is unknown"),
        (HEAD + "swav,hirl,knn,recall,1.0,x\n", "line 2: swav, hirl, knn, recall is unknown"),
        (HEAD + "swav,hirl,knn,top1,much,x\n", "value: give a number"),
        ("method,value\nswav,1\n", "has columns method, value: make them method, variant, task, metric"),
    ],
    ids=["twice", "variant", "metric", "value", "columns"],
)
def test_an_invalid_file_of_published_numbers_is_named(published, text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_paper(published(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"paper\.csv is missing: install hirl again"):
        read_paper(tmp_path / "paper.csv")


def test_the_results_hold_the_comparison(study, drawn):
    folder, _ = study
    found = pd.read_csv(folder / "paper.csv").set_index(["task", "method"])
    assert found.loc[("knn", "ibot"), "paper_gain"] == 0.85  # 77.49 - 76.64
    assert "The two are not comparable" in (folder / "table.md").read_text()
    assert "The two are not comparable" in (folder / "table-paper.tex").read_text()
