"""The notebooks of docs/ run from the first cell to the last, and the Python examples of the page on the API do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tests.estimator.conftest import COLORS, colored
from tests.workflow.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
API = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", API, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")


def cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs(notebook):
    shown: dict = {}
    for cell in cells(notebook):
        source = "".join(cell["source"]).replace("epochs=30", "epochs=2")
        exec(compile(source, notebook.name, "exec"), shown)
    assert shown["tree"].num_clusters == (36, 12, 4)
    assert Path("taxonomy.html").is_file()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_its_outputs_and_without_errors(notebook):
    assert all(cell["execution_count"] for cell in cells(notebook))
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert notebook.stat().st_size < 300_000


@pytest.fixture
def photos():
    for color, pictures in zip(COLORS, np.split(colored(12, side=32), len(COLORS)), strict=True):
        (Path("photos") / color).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(Path("photos") / color / f"{number:02}.png")


def test_the_examples_of_the_api_run(photos, capsys):
    """The five lines; every choice, at its defaults; a network of timm's."""
    shown: dict = {}
    for example in EXAMPLES[:-1]:
        exec(example, shown)
    assert shown["features"].shape[0] == len(shown["paths"]) == 48
    assert Path("photos.safetensors").is_file()
    assert shown["tree"].assignments.shape == (48, 3)


def test_lightlys_moco_trains_under_hirl_in_a_loop_of_its_own(photos, capsys):
    shown: dict = {}
    exec(EXAMPLES[-1], shown)
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert losses[:2] == [0, 0]
    assert 0 < losses[3] < losses[2]
    assert shown["hierarchy"].tree.num_clusters == (12, 4, 2)
    assert all(parameter.grad is not None for parameter in shown["hierarchy"].projections.parameters())


def test_the_page_names_everything_that_is_public():
    import hirl

    assert set(dir(hirl)) == {"HIRL", "SemanticTree", "__version__", "load"}
    assert not [name for name in dir(hirl) if not name.startswith("__") and f"`hirl.{name}`" not in API]
