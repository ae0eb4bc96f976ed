"""Take the pictures of docs/atlas.md from a study's atlas page: `python workflow/show_atlas.py PAGE FOLDER`.

An installed browser is needed, Chromium or Chrome.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from browser import find_browser
from PIL import Image
from playwright.sync_api import Page, sync_playwright

RUN = "#run=swav-hirl-s0"
LARGEST = (1050, 860)  # pixels of a picture


def walk_in(page: Page) -> None:
    """Walk two levels down, into the second largest cluster of each."""
    for _ in range(2):
        page.click("#panel .children button >> nth=1")
    page.locator("#panel").evaluate("panel => panel.scrollTop = 0")


def open_central(page: Page) -> None:
    """Open the most central picture of a finest cluster."""
    walk_in(page)
    page.click("#panel .children button >> nth=1")
    page.click("#panel .central .thumb >> nth=0")


def find_in_both(page: Page) -> None:
    """Search a class in the tree and in the baseline's."""
    page.click("#compare")
    page.fill("#search", "monarch")
    page.keyboard.press("Enter")


PICTURES: dict[str, tuple[Any, tuple[int, int], str]] = {  # what is done, the window's size, its colors
    "all": (lambda page: None, (1400, 860), "light"),
    "cluster": (walk_in, (1400, 860), "light"),
    "baseline": (find_in_both, (1400, 860), "light"),
    "picture": (open_central, (1400, 860), "dark"),
    "phone": (walk_in, (400, 860), "light"),
}


def main(atlas: Path, folder: Path) -> None:
    """Write a picture for every view."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for name, (act, (width, height), colors) in PICTURES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=colors, reduced_motion="reduce"
            )
            page.goto(f"{atlas.resolve().as_uri()}{RUN}")
            page.wait_for_selector("body:not(.loading)")
            act(page)
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shot.thumbnail(LARGEST)
            shot.save(folder / f"atlas-page-{name}.webp", quality=68, method=6)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
