"""Give all figures one look, and write each to its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from hirl.files import atomic_path

# Blue and vermilion are told apart with every kind of color vision; the baseline, the reference, is gray.
BASELINE, HIRL, LOSS = "#8b929c", "#1f5fa8", "#cc4b1c"
INK, QUIET, FAINT = "#24292f", "#57606a", "#dfe3e8"
CONTROL_LINE: dict[str, Any] = {"color": "#b9922f", "linewidth": 1.4, "linestyle": (0, (2, 1.2))}
LEVEL_COLORS = ("#1f5fa8", "#3c9ab2", "#cc7a29", "#8b929c")  # finest first
DPI = 150
LOOK: dict[Any, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
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
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


@contextmanager
def figure_file(path: str | Path, size: tuple[float, float], photographs: bool = False) -> Iterator[Figure]:
    """Open a figure of `size` inches in the common look; write it to `path`, atomically, when the block succeeds.

    A figure of photographs is written in 256 colors: a quarter of the bytes.
    """
    with plt.rc_context(LOOK):
        figure = plt.figure(layout="constrained", figsize=size)
        try:
            yield figure
            with atomic_path(path) as temporary:
                # Without date and version, the same numbers give the same bytes.
                figure.savefig(temporary, format="png", metadata={"Software": None})
                if photographs:
                    with Image.open(temporary) as image:
                        image.convert("RGB").quantize(256).save(temporary, "PNG")
        finally:
            plt.close(figure)
