"""Print tables in a terminal."""

from __future__ import annotations

from rich.console import Console, RenderableType

WIDTH = 120  # characters of a line; tables of several methods are split to fit


def wide_console(*views: RenderableType, highlight: bool = True) -> Console:
    """Return a console in which each row of these views takes one line: wider than the window rather than cut."""
    needed = max(Console(width=1000).measure(view).maximum for view in views)
    return Console(width=max(Console().width, needed), highlight=highlight)
