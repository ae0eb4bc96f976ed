from __future__ import annotations

import pytest

from hirl.reporting.markup import bold, escape, markdown_table, tabular


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("my_method & 5 % of #1 for 3 $", r"my\_method \& 5 \% of \#1 for 3 \$"),
        ("a\\b", r"a\textbackslash{}b"),
        ("60.0 ± 1.5 → 61.0", r"60.0 $\pm$ 1.5 $\to$ 61.0"),
        ("-1.2", "$-$1.2"),
        ("top-1", "top-1"),  # a hyphen is no minus
    ],
)
def test_text_is_escaped_for_latex(text: str, latex: str) -> None:
    assert escape(text) == latex


def test_bold_text_is_not_escaped_again() -> None:
    assert bold(escape("a_b")) == r"\textbf{a\_b}"


def test_numbers_in_markdown_stay_as_they_are_written_and_stand_at_the_right() -> None:
    heads, rule, line = markdown_table(["Method", "kNN"], [["SwAV", "60.0"]]).splitlines()
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == ["Method", "kNN"]
    assert [cell.strip().endswith(":") for cell in rule.split("|")[1:-1]] == [False, True]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["SwAV", "60.0"]


def test_a_latex_table_has_rules_under_its_groups_and_headings_above_its_sections() -> None:
    sections = {"": [["SwAV", "1", "2", "3"]], "ViT_tiny": [["DINO", "4", "5", "6"]]}
    assert tabular([("kNN", 2), ("AP^box", 1)], ["Method", "a", "b", "c"], sections).splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{kNN} & \multicolumn{1}{c}{AP$^{\mathrm{box}}$} \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}",
        r"Method & a & b & c \\",
        r"\midrule",
        r"SwAV & 1 & 2 & 3 \\",
        r"\midrule",
        r"\multicolumn{4}{l}{\textit{ViT\_tiny}} \\",
        r"DINO & 4 & 5 & 6 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
