"""Find the browser that takes the pictures of the docs."""

from __future__ import annotations

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str:
    """Return the path of an installed browser."""
    if found := [path for name in BROWSERS if (path := shutil.which(name))]:
        return found[0]
    raise SystemExit(f"no browser is installed: install one of {', '.join(BROWSERS)}")
