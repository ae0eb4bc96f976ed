"""Measure an atlas page of many images: `python workflow/measure_atlas.py IMAGES RUNS [TREES]`.

The images are those of results/demo, shifted, with noise; the features are random around the classes. It prints the
page's size, the time and memory to write it, and how long a browser takes to open it and to draw a step of a walk.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from hirl.config import TreeKMeansConfig
from hirl.data.images import load_images
from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.reporting.atlas_page import AtlasClasses, AtlasRun, write_atlas

WIDTH = 64  # of the features
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FRAMES = """async (act) => {
  const frames = [], started = performance.now();
  eval(act);
  for (let last = started; last - started < 700;) {
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  return frames.slice(1).sort((one, other) => one - other)[(frames.length - 1) >> 1];
}"""
STEPS = {  # of a walk: into the largest cluster, out again, to the first tree
    "in": "document.querySelector('#panel .children button').click()",
    "out": "document.querySelector('.crumbs button').click()",
    "slide": "const s = document.querySelector('#slider'); s.value = 0; s.dispatchEvent(new Event('input'))",
}
SHOWN = "JSON.parse(document.getElementById('facts').textContent).images.shown"


class Drawings:
    """Any number of images, made of those of the demo."""

    def __init__(self, count: int):
        self.data = load_images("results/demo/data", "train")
        self.drawn = np.random.default_rng(0).integers(0, len(self.data), count)
        self.labels = self.data.labels.numpy()[self.drawn]

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        assert self.data.images is not None
        picture = np.roll(self.data.images[self.drawn[index]].permute(1, 2, 0).numpy(), (index % 7, index % 5), (0, 1))
        noise = np.random.default_rng(index).integers(-12, 13, picture.shape)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)


def make_run(number: int, drawings: Drawings, trees: int) -> AtlasRun:
    """Return a run with clusters of 43 images on average, a third as many above and a thirtieth on top."""
    generator = np.random.default_rng(number)
    centers = generator.normal(size=(drawings.labels[:, 0].max() + 1, WIDTH))
    features = centers[drawings.labels[:, 0]] + generator.normal(size=(len(drawings), WIDTH))
    finest = len(drawings) // 43
    clusters, config = (finest, finest // 3, finest // 30), TreeKMeansConfig(iterations=5, restarts=1)
    tree = hierarchical_kmeans(torch.from_numpy(features), clusters, config, number)
    epochs, rows = range(1, trees + 1), features.astype(np.float32)
    return AtlasRun(f"run{number}", f"Run {number}", tuple((e, tree) for e in epochs), rows, tree, tree, rows)


def main(images: int, runs: int, trees: int = 12) -> None:
    """Write the page, open it, walk, and print what it took."""
    drawings = Drawings(images)
    made = [make_run(number, drawings, trees) for number in range(runs)]
    data = drawings.data
    classes = AtlasClasses([f"level {level}" for level in range(3)], data.class_names, drawings.labels)
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        path, started = Path(folder) / "atlas.html", time.process_time()
        write_atlas(path, made, drawings, classes, title="Measured")
        seconds, memory = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        page = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"]).new_page()
        page.set_viewport_size({"width": 1400, "height": 860})
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("body:not(.loading)")
        opened = time.perf_counter() - started
        frames = {}
        for name, act in STEPS.items():
            page.wait_for_timeout(1000)
            frames[name] = page.evaluate(FRAMES, act)
        shown, stops = (page.evaluate(script) for script in (SHOWN, "document.querySelector('#slider').max"))
        print(f"{images} images ({shown} shown), {runs} runs, {stops} trees each: {path.stat().st_size / 1e6:.1f} MB")
        print(f"written in {seconds:.0f} s of CPU with {memory:.1f} GB, opened in {opened:.1f} s")
        print("milliseconds a frame, median: " + ", ".join(f"{name} {value:.0f}" for name, value in frames.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
