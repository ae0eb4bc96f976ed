"""Tables of text in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence


def pipes(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *body))


def tabular(groups: Sequence[tuple[str, int]], heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A LaTeX tabular with booktabs.

    Args:
        groups: title and number of columns of each group, after the first column.
        heads: of all columns.
        body: lines of cells; a line of one cell is a heading over all columns.
    """
    rules, column = [], 2
    for _, count in groups:
        rules.append(rf"\cmidrule(lr){{{column}-{column + count - 1}}}")
        column += count
    over = " & ".join(rf"\multicolumn{{{count}}}{{c}}{{{tex(title)}}}" for title, count in groups)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        rf" & {over} \\",
        "".join(rules),
        rf"{' & '.join(heads)} \\",
    ]
    for number, cells in enumerate(body):
        if number == 0 or len(cells) == 1:
            lines.append(r"\midrule")
        heading = rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{tex(cells[0])}}}}}"
        lines.append((heading if len(cells) == 1 else " & ".join(map(tex, cells))) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def bold(text: str, look: str) -> str:
    """Marks what `tex` is to set in bold: the better of a pair."""
    return f"\0{text}\1" if look == "best" else text


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped, bold marks turned into commands, minus signs into real ones."""
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("±", r"$\pm$")):
        text = text.replace(plain, escaped)
    if text.startswith("-"):
        text = f"$-${text[1:]}"
    return text.replace("\0", r"\textbf{").replace("\1", "}")
