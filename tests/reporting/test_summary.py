"""The tables hold the numbers that a computation by hand gives."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from hirl.config.tasks import METRICS, TASKS
from hirl.reporting.markup import escape
from hirl.reporting.summary import WIDTH, print_table, summarise
from hirl.reporting.table import COLUMNS, collect, evaluated_runs, hierarchy_table, tabulate
from hirl.reporting.titles import html, mathtext, plain

CHOSEN = ("knn", "probe", "finetune")


def knn(value: float) -> dict[str, dict[str, float]]:
    return {"knn": {"top1": value}}


def cells_of(study, runs, tasks=CHOSEN) -> dict[str, list[str]]:
    """Return the cells of the Markdown tables by method, over all backbones."""
    summarise(study, runs, tasks)
    cells: dict[str, list[str]] = {}
    for section in (study / "table.md").read_text().split("Baseline → HIRL")[0].split("## ")[1:]:
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
        cells |= {name: texts for name, _, *texts in list(zip(*lines, strict=True))[1:]}
    return cells


def test_every_number_is_one_sorted_row(evaluations):
    study = evaluations({"mocov2-hirl-s0": {"probe": {"top5": 2.0, "top1": 1.0}, "knn": {"top1": 3.0}}})
    summary = collect(study, ["mocov2-hirl-s0"], CHOSEN)
    assert list(summary) == COLUMNS
    assert summary.values.tolist() == [
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "knn", "top1", 3.0],
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "probe", "top1", 1.0],
        ["demo", "taxonomy", "mocov2", "hirl", "resnet18", 0, "probe", "top5", 2.0],
    ]


def test_the_csv_reads_back_as_it_was(evaluations):
    runs = {"mocov2-baseline-s0": knn(100 / 3), "mocov2-hirl-s0": knn(200 / 3)}
    study = evaluations(runs)
    summarise(study, list(runs), CHOSEN)
    pd.testing.assert_frame_equal(pd.read_csv(study / "summary.csv"), collect(study, runs, CHOSEN), check_exact=True)


def test_folders_and_tasks_that_are_not_expected_are_not_read(evaluations):
    study = evaluations({"mocov2-hirl-s0": {"knn": {"top1": 3.0}, "probe": {"top1": 9.0}}, "mocov2-hirl-s7": knn(8.0)})
    assert collect(study, ["mocov2-hirl-s0"], ["knn"])["value"].tolist() == [3.0]


def test_an_evaluation_of_another_run_is_refused(evaluations):
    study = evaluations({"mocov2-hirl-s0": knn(3.0)})
    path = study / "runs" / "mocov2-hirl-s0" / "evaluation" / "knn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 1}))
    with pytest.raises(ValueError, match=r"knn\.json belongs to another run: its seed is 1, not 0"):
        collect(study, ["mocov2-hirl-s0"], CHOSEN)


def test_no_evaluation_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no evaluation"):
        collect(tmp_path, ["mocov2-hirl-s0"], CHOSEN)


def test_one_seed_shows_no_spread_and_bold_marks_the_better(evaluations):
    runs = {
        "mocov2-baseline-s0": knn(60.04),
        "mocov2-hirl-s0": knn(61.26),
        "ibot-baseline-s0": knn(70.0),
        "ibot-hirl-s0": knn(68.5),
    }
    cells = cells_of(evaluations(runs), runs)
    assert cells == {"MoCo v2": ["60.0 → **61.3** (+1.2)"], "iBOT": ["**70.0** → 68.5 (-1.5)"]}


def test_several_seeds_show_mean_deviation_and_the_paired_gain(evaluations):
    runs = {f"swav-baseline-s{seed}": knn(value) for seed, value in enumerate((60.0, 62.0, 64.0))}
    runs |= {f"swav-hirl-s{seed}": knn(value) for seed, value in enumerate((63.0, 61.0, 68.0))}
    # gains 3, -1, 4: mean 2, deviation sqrt(7); hirl: mean 64, deviation sqrt((1 + 9 + 16) / 2)
    assert cells_of(evaluations(runs), runs) == {"SwAV": ["62.0 ± 2.0 → **64.0 ± 3.6** (+2.0 ± 2.6)"]}


def test_a_gain_takes_only_seeds_that_both_sides_have(evaluations):
    runs = {f"swav-baseline-s{seed}": knn(value) for seed, value in enumerate((60.0, 62.0, 64.0))}
    runs |= {f"swav-hirl-s{seed}": knn(value) for seed, value in ((1, 63.0), (2, 67.0))}
    # seeds 1 and 2: gains 1 and 3
    cells = cells_of(evaluations(runs), runs)["SwAV"]
    assert cells == ["62.0 ± 2.0 → **65.0 ± 2.8, n=2** (+2.0 ± 1.4, n=2)"]


def test_a_missing_number_is_a_dash_and_a_missing_pair_an_empty_cell(evaluations):
    runs = {"mocov2-baseline-s0": knn(60.0), "mocov2-hirl-s0": {"probe": {"top1": 50.0}}, "swav-hirl-s0": knn(40.0)}
    assert cells_of(evaluations(runs), runs) == {"MoCo v2": ["60.0 → –", "– → 50.0"], "SwAV": ["– → 40.0", ""]}


def test_no_difference_is_neither_gain_nor_loss(evaluations):
    runs = {"mocov2-baseline-s0": knn(60.04), "mocov2-hirl-s0": knn(60.01)}
    assert cells_of(evaluations(runs), runs) == {"MoCo v2": ["60.0 → 60.0 (+0.0)"]}


def test_each_control_stands_above_the_methods_of_its_backbone(evaluations):
    runs = {"untrained-vit_tiny-s0": knn(30.0), "untrained-resnet18-s0": knn(31.0)}
    runs |= {f"{method}-baseline-s0": knn(50.0) for method in ("mocov2", "swav", "dino")}
    study = evaluations(runs)
    table = tabulate(study, collect(study, runs, CHOSEN), runs)
    titles = [row.title(table.metrics) for row in table.rows]
    assert titles == ["Untrained ResNet-18", "MoCo v2", "SwAV", "Untrained ViT-tiny", "DINO"]
    assert table.pair(table.rows[0], table.metrics[0]) == "31.0"


def test_a_control_whose_backbone_is_trained_is_marked_as_trained_from_scratch(evaluations):
    runs = {"untrained-resnet18-s0": {"knn": {"top1": 30.0}, "finetune": {"top1": 40.0}}}
    runs |= {"mocov2-baseline-s0": {"finetune": {"top1": 50.0}}, "mocov2-hirl-s0": {"finetune": {"top1": 51.0}}}
    study = evaluations(runs)
    assert cells_of(study, runs)["Untrained"] == ["30.0", "40.0 †"]
    assert "† This evaluation trains the backbone" in (study / "table.md").read_text()
    tabulars = (study / "table.tex").read_text().split(r"\medskip")
    assert ["ResNet-18 from scratch &" in tabular for tabular in tabulars] == [False, True]


def test_superclass_levels_are_numbered_and_the_names_of_the_data_are_noted(study):
    folder, runs = study
    table = tabulate(folder, collect(folder, runs, CHOSEN), runs)
    superclasses = ["kNN superclass (level 1)", "kNN superclass (level 2)"]
    titles = [metric.title for metric in table.metrics]
    assert titles == ["kNN top-1", *superclasses, "Linear probe top-1", "Fine-tuning top-1"]
    assert table.levels_note == "Superclass levels of the data set: 1 = group, 2 = kingdom."
    assert [table.tooltip(metric) for metric in table.metrics[:3]] == ["", "class level: group", "class level: kingdom"]


def test_every_task_but_the_hierarchy_is_in_the_table():
    assert {metric.task for metric in METRICS} == set(TASKS) - {"hierarchy"}


def test_superscripts_are_set_as_each_format_can():
    title = "AP50^box"
    assert [plain(title), html(title)] == ["AP50 box", "AP50<sup>box</sup>"]
    assert [escape(title), mathtext(title)] == [r"AP50$^{\mathrm{box}}$", r"AP50$^\mathbf{box}$"]


def test_the_names_of_the_runs_can_be_read_from_the_summary(study):
    folder, runs = study
    assert sorted(evaluated_runs(collect(folder, runs, CHOSEN))) == sorted(runs)


def test_both_controls_of_a_study_keep_their_own_numbers(evaluations):
    runs = {"untrained-resnet18-s0": knn(31.0), "untrained-vit_tiny-s0": knn(30.0)}
    summary = collect(evaluations(runs), runs, CHOSEN)
    assert summary[["variant", "backbone", "value"]].values.tolist() == [
        ["control", "resnet18", 31.0],
        ["control", "vit_tiny", 30.0],
    ]


def test_latex_has_a_column_for_every_cell_and_escapes(evaluations):
    runs = {f"my_method-{v}-s{s}": knn(50.0 + s - 9 * (v == "hirl")) for v in ("baseline", "hirl") for s in (0, 1)}
    study = evaluations(runs)
    summarise(study, list(runs), CHOSEN)
    text = (study / "table.tex").read_text()
    line = next(line for line in text.splitlines() if line.startswith("my"))
    assert line == r"my\_method & \textbf{50.5 $\pm$ 0.7} & 41.5 $\pm$ 0.7 & $-$9.0 $\pm$ 0.0 \\"
    assert r"\begin{tabular}{lrrr}" in text


def test_every_line_of_the_latex_tables_has_all_columns(study, drawn):
    for name in ("table.tex", "table-paper.tex"):
        tabulars = (study[0] / name).read_text().split(r"\begin{tabular}")[1:]
        assert tabulars
        for tabular in tabulars:
            columns = len(tabular.split("}")[0].removeprefix("{"))
            lines = [line for line in tabular.splitlines() if line.endswith(r"\\")]
            spans = [sum(int(span) - 1 for span in re.findall(r"multicolumn{(\d+)}", line)) for line in lines]
            cells = [len(re.split(r"(?<!\\)&", line)) for line in lines]
            assert {cell + span for cell, span in zip(cells, spans, strict=True)} == {columns}
            assert tabular.count("{") == tabular.count("}")


def test_the_tables_of_the_terminal_are_no_wider_than_needed(study, capsys):
    folder, runs = study
    print_table(tabulate(folder, collect(folder, runs, CHOSEN), runs))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    heads = [line.split() for line in lines if "MoCo v2" in line or "iBOT" in line]
    assert heads == [["ResNet-18", "Untrained", "MoCo", "v2"], ["ViT-tiny", "Untrained", "iBOT"]]
    assert "±" in lines[1]


def test_methods_that_do_not_fit_side_by_side_follow_below(evaluations, capsys):
    methods = ("mocov2", "simsiam", "swav", "swav_800", "one", "two", "three")
    runs = {f"{method}-{variant}-s0": knn(50.0) for method in methods for variant in ("baseline", "hirl")}
    study = evaluations(runs)
    print_table(tabulate(study, collect(study, runs, CHOSEN), runs))
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in lines if line.startswith("ResNet-18")]
    assert len(heads) == 2
    assert heads[1][-1] == "three"
    assert max(map(len, lines)) <= WIDTH


def test_the_wide_csv_holds_plain_numbers(evaluations):
    runs = {"mocov2-baseline-s0": knn(60.0), "mocov2-hirl-s0": knn(61.5)}
    study = evaluations(runs)
    summarise(study, list(runs), CHOSEN)
    (row,) = pd.read_csv(study / "table.csv").to_dict("records")
    wanted = {"knn_top1_baseline": 60.0, "knn_top1_hirl": 61.5, "knn_top1_gain": 1.5}
    assert row == {"method": "mocov2", "backbone": "resnet18", **wanted}


def test_trees_are_compared_level_by_level(evaluations):
    numbers = {"nmi_level0": 40.0, "ami_level0": 30.0, "purity_level0": 50.0, "clusters_level0": 8, "empty_level0": 1}
    runs = {"mocov2-hirl-s0": {"hierarchy": numbers}}
    study = evaluations(runs)
    frame = hierarchy_table(study, collect(study, runs, ["hierarchy"]), runs)
    wanted = {"Clusters": "8", "Empty": "1", "NMI": "40.0", "AMI": "30.0", "Purity": "50.0"}
    assert frame.to_dict("records") == [{"Method": "MoCo v2", "Level": "0", "True classes": "level 0", **wanted}]


def test_ap_at_one_threshold_is_shown_but_neither_counted_nor_drawn(evaluations):
    boxes = {"ap_box": 20.0, "ap50_box": 40.0, "ap75_box": 10.0}
    better = {name: value + 1 for name, value in boxes.items()}
    runs = {"mocov2-baseline-s0": {"detection": boxes}, "mocov2-hirl-s0": {"detection": better}}
    study = evaluations(runs)
    table = tabulate(study, collect(study, runs, ["detection"]), runs)
    assert [metric.title for metric in table.metrics] == ["AP^box", "AP50^box", "AP75^box"]
    assert [metric.title for metric in table.headline_metrics] == ["AP^box"]
    assert (table.verdict.above, table.verdict.total) == (1, 1)
