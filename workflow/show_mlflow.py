"""Take the pictures of docs/mlflow.md from a store of a study: `python workflow/show_mlflow.py RESULTS FOLDER`.

An installed browser is needed, Chromium or Chrome.
"""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from browser import find_browser
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from hirl.tracking.mlflow import sync, view_path

PAIR = ("mocov2-baseline-s0", "mocov2-hirl-s0")
WIDTH, HEIGHT = 1400, 800
SECONDS = 60  # that the server may take to start
# MLflow opens in the mode for language models, with an assistant beside the page, until its readers close both.
SETTINGS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


def main(results: Path, folder: Path) -> None:
    """Copy the study into a store of its own, walk through MLflow's pages and write a picture of each."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as driver:
        store = f"sqlite:///{home}/mlflow.db"
        view = view_path(sync(results, None, store))
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for key, value in SETTINGS.items():
            page.add_init_script(f"localStorage.setItem({key!r}, {value!r})")
        with serve(store) as address:
            page.goto(f"{address}{view}")
            tick_both(page)
            take(page, folder / "mlflow-results.webp")
            page.get_by_role("button", name="Compare").click()
            page.get_by_text("Show diff only").last.wait_for()
            page.get_by_role("switch").first.click()
            page.get_by_text("Artifacts", exact=True).evaluate("title => title.scrollIntoView({block: 'end'})")
            take(page, folder / "mlflow-compare.webp")
            page.goto(f"{address}{view}")
            page.get_by_role("link", name=PAIR[1], exact=True).click()
            page.get_by_text("About this run").wait_for()
            take(page, folder / "mlflow-run.webp")


def tick_both(page: Page) -> None:
    """Tick the runs of the pair in the list."""
    for run in PAIR:
        row = page.locator("[role=row]", has=page.get_by_role("link", name=run, exact=True)).first
        row.wait_for()
        row.locator(".ag-selection-checkbox").click()


def take(page: Page, path: Path) -> None:
    """Write a picture of the page as it is when nothing loads any more."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=80, method=6)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def serve(store: str) -> Iterator[str]:
    """Serve MLflow's pages on a free port until the block ends; yield their address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "ui", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            urlopen(address).close()
            return
        except URLError as error:
            if time.monotonic() > end:
                raise SystemExit(f"MLflow does not answer at {address}: {error.reason}") from error
            time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
