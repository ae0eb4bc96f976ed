"""Find the files that the package reads and that are not Python: config/ and the report's captions."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def find_resources(package: Path = PACKAGE) -> Path:
    """Return the folder that holds config/ and workflow/report/.

    A wheel carries copies of both (setup.py puts them there); in a clone or an editable install they are the
    repository's own.
    """
    shipped = package / "shipped"
    return shipped if shipped.is_dir() else package.parents[1]


RESOURCES = find_resources()
CONFIG_ROOT = RESOURCES / "config"
CAPTIONS = RESOURCES / "workflow" / "report"
REINSTALL = "install hirl again, with pip install in a clone of its repository"  # ends an error about a missing file
