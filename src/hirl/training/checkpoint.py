"""Checkpoints: the whole state of a training after an epoch, one file each, written atomically; the last two are kept.

A stem is such a state of a baseline, kept for the HIRL runs that share its first epochs (hirl.training.stem).
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from hirl.files import atomic_path
from hirl.training.scratch import checkpoint_path, checkpoints

UNREADABLE = (OSError, EOFError, RuntimeError, BadZipFile, pickle.UnpicklingError)  # what `read_state` may raise
KEPT = 2  # checkpoints: if the newest is damaged, training resumes from the one before


def save_checkpoint(folder: Path, epochs_done: int, state: dict[str, Any]) -> None:
    """Write the state after `epochs_done` epochs, and remove all but the newest checkpoints."""
    write_state(checkpoint_path(folder, epochs_done), state)
    for outdated in checkpoints(folder)[KEPT:]:
        outdated.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that can be read, or None; name unreadable ones on stderr."""
    for path in checkpoints(folder):
        try:
            return read_state(path)
        except UNREADABLE as error:
            print(f"{path} cannot be read ({type(error).__name__}): using the checkpoint before it", file=sys.stderr)
    return None


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a checkpoint, readable or not."""
    return bool(checkpoints(folder))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def read_state(path: Path) -> dict[str, Any]:
    """Return a state after checking its checksums, which torch.load does not."""
    with ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise BadZipFile(f"{damaged} has a wrong checksum")
    return torch.load(path, map_location="cpu", weights_only=True)
