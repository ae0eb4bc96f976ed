"""Checkpoints: one file per epoch, written atomically; the last two are kept."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from hirl.files import atomic_path

KEPT = 2  # checkpoints: if the newest is damaged, training resumes from the one before


def save_checkpoint(folder: Path, epochs_done: int, state: dict[str, Any]) -> None:
    """Write the state after `epochs_done` epochs, and remove all but the newest checkpoints."""
    with atomic_path(folder / f"checkpoint{epochs_done:05d}.pt") as temporary:
        torch.save(state, temporary)
    for outdated in _newest_first(folder)[KEPT:]:
        outdated.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that can be read, or None; name unreadable ones on stderr."""
    for path in _newest_first(folder):
        try:
            return _read(path)
        except (OSError, EOFError, RuntimeError, BadZipFile, pickle.UnpicklingError) as error:
            print(f"{path} cannot be read ({type(error).__name__}): using the checkpoint before it", file=sys.stderr)
    return None


def _read(path: Path) -> dict[str, Any]:
    """Return a state after checking its checksums, which torch.load does not."""
    with ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise BadZipFile(f"{damaged} has a wrong checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint*.pt"), reverse=True)
