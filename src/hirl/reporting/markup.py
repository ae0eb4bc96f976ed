"""Format tables of text as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import pandas as pd

from hirl.reporting.titles import SUPERSCRIPT

SPECIAL = {"\\": r"\textbackslash{}", **{c: rf"\{c}" for c in "%_&#$"}, "±": r"$\pm$", "→": r"$\to$", "Δ": r"$\Delta$"}


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    frame = pd.DataFrame(body, columns=pd.Index(heads, dtype=object), dtype=object)
    align = ["left", *["right"] * (len(heads) - 1)]
    return frame.to_markdown(index=False, colalign=align, disable_numparse=True) + "\n"


# Ours instead of pandas' Styler.to_latex, which sets no \cmidrule under column groups and no headings between rows.
def tabular(groups: Sequence[tuple[str, int]], heads: Sequence[str], sections: dict[str, list[list[str]]]) -> str:
    """Return a LaTeX tabular with booktabs.

    Args:
        groups: title and number of columns of each group, after the first column.
        heads: titles of all columns.
        sections: lines of cells, already in LaTeX, by the heading above them; "" sets no heading.
    """
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        *_group_heads(groups),
        rf"{' & '.join(heads)} \\",
    ]
    for heading, body in sections.items():
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{escape(heading)}}}}} \\")
        lines += [rf"{' & '.join(cells)} \\" for cells in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _group_heads(groups: Sequence[tuple[str, int]]) -> list[str]:
    """Return the line of group titles and the rules under it."""
    titles = [rf"\multicolumn{{{count}}}{{c}}{{{escape(title)}}}" for title, count in groups]
    ends = list(accumulate((count for _, count in groups), initial=1))
    rules = [rf"\cmidrule(lr){{{start + 1}-{end}}}" for start, end in pairwise(ends)]
    return [rf" & {' & '.join(titles)} \\", "".join(rules)]


def escape(text: str) -> str:
    """Return text as LaTeX: special characters escaped, a leading minus and superscripts set in math mode."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    escaped = re.sub(r"^-", "$-$", escaped)
    return SUPERSCRIPT.sub(r"$^{\\mathrm{\1}}$", escaped)


def bold(text: str) -> str:
    """Return LaTeX text in bold."""
    return rf"\textbf{{{text}}}"
