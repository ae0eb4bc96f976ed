"""The common look of all figures: colours, matplotlib settings, and the file a figure is written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hirl.files import atomic_path

# Blue and vermilion stay apart for every kind of colour vision; the baseline is what it is compared with: grey.
BASELINE, HIRL, LOSS, INK, FAINT = "#8b929c", "#1f5fa8", "#cc4b1c", "#24292f", "#dfe3e8"
CONTROL_LINE = {"color": "#b9922f", "linewidth": 1.4, "linestyle": (0, (2, 1.2))}
LEVEL_COLOURS = ("#1f5fa8", "#3c9ab2", "#cc7a29", "#8b929c")  # finest first
LOOK = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.12,
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


@contextmanager
def figure_file(path: str | Path, **kwargs: object) -> Iterator[Figure]:
    """A figure in the common look, written whole to `path` when the block ends well."""
    with plt.rc_context(LOOK):
        figure = plt.figure(layout="constrained", **kwargs)
        try:
            yield figure
            with atomic_path(path) as temporary:
                # No date, no version: the same numbers give the same bytes.
                figure.savefig(temporary, format="png", metadata={"Software": None})
        finally:
            plt.close(figure)
