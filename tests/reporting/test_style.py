from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from hirl.reporting.style import DPI, figure_file


def draw(path: Path) -> None:
    with figure_file(path, (3, 2)) as figure:
        figure.subplots().plot([0, 1], [0, 1])


def test_the_same_drawing_gives_the_same_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "one.png")
    draw(tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_figure_that_fails_leaves_no_file_and_no_open_figure(tmp_path: Path) -> None:
    open_before = plt.get_fignums()
    with pytest.raises(KeyError), figure_file(tmp_path / "none.png", (3, 2)):
        raise KeyError
    assert not list(tmp_path.iterdir())
    assert plt.get_fignums() == open_before


def test_a_figure_of_photographs_has_few_colors(tmp_path: Path) -> None:
    with figure_file(tmp_path / "figure.png", (1, 1), photographs=True) as figure:
        figure.subplots().imshow(np.random.default_rng(0).random((16, 16, 3)))
    with Image.open(tmp_path / "figure.png") as image:
        assert image.mode == "P"


def test_the_look_ends_with_the_figure(tmp_path: Path) -> None:
    before = plt.rcParams["savefig.dpi"]
    with figure_file(tmp_path / "figure.png", (3, 2)):
        assert plt.rcParams["savefig.dpi"] == DPI
    assert plt.rcParams["savefig.dpi"] == before
