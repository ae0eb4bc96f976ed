"""The tables hold the numbers that a computation by hand gives."""

from __future__ import annotations

import re

import pandas as pd

from hirl.reporting.summary import WIDTH, print_table, summarise
from hirl.reporting.table import collect, tabulate
from tests.reporting.conftest import CHOSEN, knn


def cells_of(study, runs, tasks=CHOSEN) -> dict[str, list[str]]:
    """Return the cells of the Markdown tables by method, over all backbones."""
    summarise(study, runs, tasks)
    cells: dict[str, list[str]] = {}
    for section in (study / "table.md").read_text().split("Baseline → HIRL")[0].split("## ")[1:]:
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
        cells |= {name: texts for name, _, *texts in list(zip(*lines, strict=True))[1:]}
    return cells


def test_the_csv_reads_back_as_it_was(evaluations):
    runs = {"mocov2-baseline-s0": knn(100 / 3), "mocov2-hirl-s0": knn(200 / 3)}
    study = evaluations(runs)
    summarise(study, list(runs), CHOSEN)
    pd.testing.assert_frame_equal(pd.read_csv(study / "summary.csv"), collect(study, runs, CHOSEN), check_exact=True)


def test_one_seed_shows_no_spread_and_nothing_is_bold(evaluations, tmp_path):
    runs = {
        "mocov2-baseline-s0": knn(60.04),
        "mocov2-hirl-s0": knn(61.26),
        "ibot-baseline-s0": knn(70.0),
        "ibot-hirl-s0": knn(68.5),
    }
    cells = cells_of(evaluations(runs), runs)
    assert cells == {"MoCo v2": ["60.0 → 61.3 (+1.2)"], "iBOT": ["70.0 → 68.5 (-1.5)"]}
    assert "No spread is known" in (tmp_path / "demo" / "table.md").read_text()


def test_several_seeds_show_mean_interval_and_the_paired_gain(evaluations):
    runs = {f"swav-baseline-s{seed}": knn(value) for seed, value in enumerate((60.0, 62.0, 64.0))}
    runs |= {f"swav-hirl-s{seed}": knn(value) for seed, value in enumerate((63.0, 61.0, 68.0))}
    # gains 3, -1, 4: mean 2, deviation sqrt(7); hirl: mean 64, deviation sqrt((1 + 9 + 16) / 2); t = 4.303 for n = 3
    assert cells_of(evaluations(runs), runs) == {"SwAV": ["62.0 ± 5.0 → 64.0 ± 9.0 (+2.0 ± 6.6)"]}


def test_a_gain_whose_interval_leaves_zero_is_bold(evaluations):
    runs = {f"swav-baseline-s{seed}": knn(value) for seed, value in enumerate((60.0, 62.0, 64.0))}
    runs |= {f"swav-hirl-s{seed}": knn(value) for seed, value in enumerate((63.0, 65.0, 67.1))}
    assert cells_of(evaluations(runs), runs) == {"SwAV": ["62.0 ± 5.0 → **65.0 ± 5.1** (+3.0 ± 0.1)"]}


def test_each_variant_of_the_studys_own_has_a_column_beside_hirls(evaluations):
    runs = {"swav-baseline-s0": knn(60.0), "swav-hirl-s0": knn(61.0), "swav-hirl-flat-s0": knn(58.0)}
    assert cells_of(evaluations(runs), runs) == {
        "SwAV": ["60.0 → 61.0 (+1.0)"],
        "SwAV, HIRL-flat": ["60.0 → 58.0 (-2.0)"],
    }


def test_a_gain_takes_only_seeds_that_both_sides_have(evaluations):
    runs = {f"swav-baseline-s{seed}": knn(value) for seed, value in enumerate((60.0, 62.0, 64.0))}
    runs |= {f"swav-hirl-s{seed}": knn(value) for seed, value in ((1, 63.0), (2, 67.0))}
    # seeds 1 and 2: gains 1 and 3
    cells = cells_of(evaluations(runs), runs)["SwAV"]
    assert cells == ["62.0 ± 5.0 → 65.0 ± 25.4, n=2 (+2.0 ± 12.7, n=2)"]


def test_a_missing_number_is_a_dash_and_a_missing_pair_an_empty_cell(evaluations):
    runs = {"mocov2-baseline-s0": knn(60.0), "mocov2-hirl-s0": {"probe": {"top1": 50.0}}, "swav-hirl-s0": knn(40.0)}
    assert cells_of(evaluations(runs), runs) == {"MoCo v2": ["60.0 → –", "– → 50.0"], "SwAV": ["– → 40.0", ""]}


def test_no_difference_is_neither_gain_nor_loss(evaluations):
    runs = {"mocov2-baseline-s0": knn(60.04), "mocov2-hirl-s0": knn(60.01)}
    assert cells_of(evaluations(runs), runs) == {"MoCo v2": ["60.0 → 60.0 (+0.0)"]}


def test_a_control_whose_backbone_is_trained_is_marked_as_trained_from_scratch(evaluations):
    runs = {"untrained-resnet18-s0": {"knn": {"top1": 30.0}, "finetune": {"top1": 40.0}}}
    runs |= {"mocov2-baseline-s0": {"finetune": {"top1": 50.0}}, "mocov2-hirl-s0": {"finetune": {"top1": 51.0}}}
    study = evaluations(runs)
    assert cells_of(study, runs)["Untrained"] == ["30.0", "40.0 †"]
    assert "† This evaluation trains the backbone" in (study / "table.md").read_text()
    tabulars = (study / "table.tex").read_text().split(r"\medskip")
    assert ["ResNet-18 from scratch &" in tabular for tabular in tabulars] == [False, True]


def test_latex_has_a_column_for_every_cell_and_escapes(evaluations):
    runs = {f"my_method-{v}-s{s}": knn(50.0 + s - 9 * (v == "hirl")) for v in ("baseline", "hirl") for s in (0, 1)}
    study = evaluations(runs)
    summarise(study, list(runs), CHOSEN)
    text = (study / "table.tex").read_text()
    line = next(line for line in text.splitlines() if line.startswith("my"))
    assert line == r"my\_method & \textbf{50.5 $\pm$ 6.4} & 41.5 $\pm$ 6.4 & $-$9.0 $\pm$ 0.0 \\"
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
    assert row == {"method": "mocov2", "variant": "hirl", "backbone": "resnet18", **wanted}
