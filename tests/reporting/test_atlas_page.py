"""The atlas page is one file that holds its pictures, and refuses what does not fit together."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hirl.hierarchy.tree import SemanticTree
from hirl.reporting import atlas_page
from hirl.reporting.atlas_page import PAGE, AtlasClasses, AtlasRun, evenly, write_atlas
from tests.reporting.test_atlas_data import CLUSTERS, IMAGES, random_tree

LIBRARY_SHA256 = "971f374ce9fdbec711eb2358003e2bb755bff22ec6852dc5ebd59f987270db64"


@pytest.fixture
def pictures() -> np.ndarray:
    """Return pictures of one color each, which tells their index."""
    shades = np.arange(IMAGES)[:, None, None, None] * 255 // IMAGES
    return np.broadcast_to(shades, (IMAGES, 20, 20, 3)).astype(np.uint8)


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, 8)).astype(np.float32)


@pytest.fixture
def tree(features) -> SemanticTree:
    return random_tree(torch.from_numpy(features))


def facts_of(page: Path) -> dict[str, Any]:
    return json.loads(re.search(r'id="facts">(.*?)</script>', page.read_text())[1])


def test_the_page_needs_no_other_file(tree, features, pictures, tmp_path):
    write_atlas(tmp_path / "atlas.html", [AtlasRun("a", "A", ((1, tree),), features)], pictures, title="Mine")
    page = (tmp_path / "atlas.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) <= {
        "https://d3js.org/d3-hierarchy/",
        "http://www.w3.org/2000/svg",
    }


def test_the_sprite_holds_every_picture_in_its_place(tree, pictures, tmp_path):
    write_atlas(tmp_path / "atlas.html", [AtlasRun("a", "A", ((1, tree),))], pictures, title="Mine")
    facts, page = facts_of(tmp_path / "atlas.html")["images"], (tmp_path / "atlas.html").read_text()
    encoded = re.search(r"image/webp;base64,([^\"]+)", page)[1]
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), int)
    tile, columns = facts["tile"], facts["columns"]
    for index in (0, 17, IMAGES - 1):
        row, column = divmod(index, columns)
        middle = sprite[row * tile + tile // 2, column * tile + tile // 2]
        assert np.abs(middle - pictures[index, 0, 0]).max() <= 8  # WebP is lossy


def test_many_pictures_are_sampled_and_trees_thinned(tree, features, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_page, "SHOWN_AT_MOST", 100)
    monkeypatch.setattr(atlas_page, "SHOWN_IN_ALL_TREES", 3 * (100 + 4 * sum(CLUSTERS)))
    trees = tuple((epoch, tree) for epoch in range(10))
    write_atlas(tmp_path / "atlas.html", [AtlasRun("a", "A", trees, features)], pictures, title="Mine")
    facts = facts_of(tmp_path / "atlas.html")
    assert (facts["images"]["shown"], facts["images"]["total"]) == (100, IMAGES)
    assert [kept["epoch"] for kept in facts["runs"][0]["trees"]] == [0, 4, 9]


@pytest.mark.parametrize(("at_most", "kept"), [(2, [0, 9]), (4, [0, 3, 6, 9]), (20, list(range(10)))])
def test_the_first_and_the_last_tree_are_kept(at_most, kept):
    assert evenly(range(10), at_most) == kept


def test_a_title_and_names_cannot_break_the_page(tree, pictures, tmp_path):
    classes = AtlasClasses(["</script>"], [["<b>", "</script><i>"]], np.zeros((IMAGES, 1), np.int64))
    write_atlas(tmp_path / "a.html", [AtlasRun("a", "<A>", ((1, tree),))], pictures, classes, title="</title><b>")
    page = (tmp_path / "a.html").read_text()
    assert "</title><b>" not in page
    assert "</script><i>" not in page
    assert facts_of(tmp_path / "a.html")["classes"]["names"] == [["<b>", "</script><i>"]]


def test_pictures_of_any_shape_become_squares(tree, tmp_path):
    pictures = [Image.new("RGB", (40 + index % 3, 30), (0, 200, 0)) for index in range(IMAGES)]
    write_atlas(tmp_path / "atlas.html", [AtlasRun("a", "A", ((1, tree),))], pictures, title="Mine")
    assert facts_of(tmp_path / "atlas.html")["images"]["tile"] == 24  # the largest tile below 30 pixels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trees": ()}, "a has no tree: only HIRL runs"),
        ({"features": np.ones((7, 8), np.float32)}, "features of a: 7 images, but there are 300 pictures"),
        ({"baseline_features": np.ones((8, 8), np.float32)}, "baseline features of a: 8 images"),
    ],
)
def test_what_does_not_fit_together_is_refused(tree, pictures, tmp_path, change, message):
    run = AtlasRun(**({"name": "a", "title": "A", "trees": ((1, tree),)} | change))
    with pytest.raises(ValueError, match=message):
        write_atlas(tmp_path / "atlas.html", [run], pictures, title="Mine")
    assert not (tmp_path / "atlas.html").exists()


def test_an_atlas_of_no_run_is_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="the atlas has no run"):
        write_atlas(tmp_path / "atlas.html", [], pictures, title="Mine")


def test_the_drawing_library_is_the_published_file_with_its_license():
    """d3-hierarchy 3.1.3, dist/d3-hierarchy.min.js of `npm pack d3-hierarchy@3.1.3`."""
    assert hashlib.sha256((PAGE / "d3-hierarchy.min.js").read_bytes()).hexdigest() == LIBRARY_SHA256
    assert "Copyright 2010-2026 Mike Bostock" in (PAGE / "d3-hierarchy.min.js.LICENSE").read_text()
