"""The atlas page, walked in a browser without a window: what it shows is read from the document."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hirl.data.images import load_images
from hirl.hierarchy.tree import SemanticTree
from hirl.reporting.atlas_page import AtlasRun, write_atlas
from hirl.reporting.atlas_study import StudyImages, write_study_atlas
from hirl.reporting.runs import Run
from tests.reporting.conftest import IMAGES

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make .venv")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: install one of {', '.join(BROWSERS)}")

RUN = "mocov2-hirl-s0"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def atlas(walked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a study of two HIRL runs, without a network or a server."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    write_study_atlas(walked, ["mocov2-baseline-s0", RUN, "ibot-baseline-s0", "ibot-hirl-s0"], path)
    return path


@pytest.fixture
def tree(walked: Path) -> SemanticTree:
    return SemanticTree.load(Run(walked, RUN).snapshots[-1])


@pytest.fixture
def open_page(browser, atlas: Path) -> Iterator[Open]:
    """Return a function that opens a page, by default the study's, and fails on any error in it."""
    errors: list[str] = []

    def open_page(address: str = "", width: int = 1400, path: Path = atlas) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 860}, reduced_motion="reduce")
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{path.as_uri()}{address}")
        page.wait_for_selector("body:not(.loading)")
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert errors == []


def heading(page: Any) -> str:
    return page.inner_text("#panel h2")


def focus(page: Any) -> list[int]:
    """Return level and number of the cluster that the map shows; none for all pictures."""
    return [int(word) for word in page.get_attribute("#run", "data-focus").split("-") if word]


def click_map(page: Any) -> None:
    page.click("#run canvas[tabindex]", position={"x": 400, "y": 60})


def test_clicks_lead_from_coarse_to_fine_to_a_picture(open_page, tree):
    page = open_page()
    assert heading(page) == f"{IMAGES} pictures, 3 levels"
    for level in (2, 1, 0):
        click_map(page)
        found, cluster = focus(page)
        members = np.flatnonzero(tree.assignments[:, level] == cluster)
        assert found == level
        assert page.inner_text("#panel .size").startswith(f"{len(members)} pictures")
        assert page.locator("#run .crumbs li").count() == 4 - level
    click_map(page)
    assert page.inner_text("#panel .kind").startswith("Picture")
    index = int(re.search(r"picture=(\d+)", page.url)[1])
    assert index in members
    path = [rows.get_attribute("data-cluster") for rows in page.locator("#panel .path button").all()]
    assert path == [f"{level}-{tree.assignments[index, level]}" for level in (2, 1, 0)]


def test_escape_and_the_browsers_back_lead_out(open_page):
    page = open_page()
    click_map(page)
    coarse = focus(page)
    click_map(page)
    page.keyboard.press("Escape")
    assert focus(page) == coarse
    page.go_back()
    page.go_back()
    assert focus(page) == coarse
    page.go_back()
    assert focus(page) == []


def test_purity_is_that_of_all_pictures_of_the_cluster(open_page, tree, walked):
    labels = load_images(walked / "data", "train").labels.numpy()
    for level, cluster in ((2, 1), (0, 5)):
        page = open_page(f"#run={RUN}&cluster={level}-{cluster}")
        members = labels[tree.assignments[:, level] == cluster]
        shown = {bar.get_attribute("data-level"): bar.inner_text() for bar in page.locator(".bar").all()}
        for at, name in enumerate(("class", "group", "kingdom")):
            part = np.bincount(members[:, at]).max() / len(members)
            assert f"{100 * part:.0f} %" in shown[name]


def test_a_search_for_a_class_says_where_its_pictures_are(open_page, tree, walked):
    page = open_page()
    page.keyboard.press("/")
    page.keyboard.type("group 3")
    assert page.inner_text("#results li b") == "group 3"
    page.keyboard.press("Enter")
    assert heading(page) == "group 3"
    labels = load_images(walked / "data", "train").labels[:, 1]
    counts = torch.bincount(tree.assignments[labels == 3, 1])
    assert page.inner_text("#panel .found .what small >> nth=0") == f"{counts.max()} of {int((labels == 3).sum())}"
    page.keyboard.press("Escape")
    assert heading(page) == f"{IMAGES} pictures, 3 levels"


def test_a_search_for_a_number_opens_the_picture_with_its_neighbors(open_page, walked):
    page = open_page()
    page.fill("#search", "17")
    page.keyboard.press("Enter")
    assert page.inner_text("#panel .kind").startswith(f"Picture 17 of {IMAGES}")
    for run, where in ((RUN, "near"), ("mocov2-baseline-s0", "near-baseline")):
        units = torch.nn.functional.normalize(torch.from_numpy(Run(walked, run).features()), dim=1)
        nearest = (units @ units[17]).argsort(descending=True)[1:9].tolist()  # the picture itself is nearest
        shown = [thumb.get_attribute("data-image") for thumb in page.locator(f".{where} .thumb").all()]
        assert [int(image) for image in shown] == nearest


def test_the_slider_shows_earlier_trees_and_stays_with_the_pictures(open_page, walked):
    page = open_page(f"#run={RUN}&cluster=2-0")
    page.focus("#slider")
    page.keyboard.press("Home")
    assert page.inner_text("#stop") == "after 2 epochs"
    assert "tree=2" in page.url
    first, last = (SemanticTree.load(Run(walked, RUN).snapshots[at]).assignments[:, 2] for at in (0, -1))
    assert focus(page) == [2, torch.bincount(first[last == 0]).argmax().item()]


def test_another_run_is_chosen_from_the_list(open_page):
    page = open_page()
    page.select_option("#runs", label="iBOT + HIRL")
    assert page.inner_text("#panel .kind") == "iBOT + HIRL, after 5 epochs"
    assert "run=ibot-hirl-s0" in page.url


def test_the_baseline_stands_beside_features_clustered_the_same_way(open_page):
    page = open_page()
    assert not page.is_visible("#baseline")
    page.click("#compare")
    assert page.is_visible("#baseline")
    assert page.inner_text("#stop") == "features"
    click_map(page)
    sentence = page.inner_text("#panel .elsewhere p")
    assert re.fullmatch(r"In the baseline, (one cluster|\d+ clusters) of this level .*", sentence)
    page.click("#panel .elsewhere button >> nth=0")
    assert page.get_attribute("#baseline", "data-focus").startswith("2-")


def test_the_keys_alone_lead_to_a_picture(open_page):
    page = open_page()
    page.focus("#run canvas[tabindex]")
    for depth in (3, 2, 1):
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#said") != ""
        page.keyboard.press("Enter")
        assert focus(page)[0] == depth - 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "picture=" in page.url
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    assert focus(page)[0] == 1


def test_an_address_leads_to_the_same_view(open_page):
    address = f"#run={RUN}&tree=3&cluster=1-2&picture=4&compare=1&marks=1"
    page = open_page(address)
    assert page.inner_text("#stop") == "after 3 epochs"
    assert page.inner_text("#panel .kind").startswith("Picture 4 ")
    assert page.get_attribute("#marks", "aria-pressed") == page.get_attribute("#compare", "aria-pressed") == "true"
    assert open_page("#run=nobody&cluster=9-9&picture=x").inner_text("#panel h2") == f"{IMAGES} pictures, 3 levels"


def test_a_phone_shows_it_all_in_one_column(open_page):
    page = open_page(width=400)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("#panel").bounding_box()["y"] > page.locator("#time").bounding_box()["y"]
    page.click("#compare")
    assert page.locator("#baseline").bounding_box()["y"] > page.locator("#run").bounding_box()["y"]


def test_trees_alone_show_no_purity_and_say_what_is_missing(open_page, tree, walked, tmp_path):
    images = StudyImages(load_images(walked / "data", "train"))
    names = [f"holiday-{index}.jpg" for index in range(IMAGES)]
    write_atlas(tmp_path / "mine.html", [AtlasRun("mine", "Mine", ((1, tree),))], images, title="Mine", names=names)
    page = open_page(path=tmp_path / "mine.html")
    click_map(page)
    assert "%" not in page.inner_text("#run .crumbs")
    assert page.locator(".bar").count() == 0
    assert "need the run's features" in page.inner_text("#panel .note")
    assert not any(page.is_visible(f"#{part}") for part in ("compare", "marks", "time", "runs"))
    page.fill("#search", "holiday-42")
    page.keyboard.press("Enter")
    assert heading(page) == "holiday-42.jpg"
