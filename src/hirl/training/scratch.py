"""The files of a training's scratch folder that say how far it is. Import costs no torch."""

from __future__ import annotations

from pathlib import Path

RECORD = "record.jsonl"  # the run's record, while it trains


def checkpoint_path(folder: Path, epochs_done: int) -> Path:
    """Return the file of the state after so many epochs."""
    return folder / f"checkpoint{epochs_done:05d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, readable or not, newest first."""
    return sorted(folder.glob("checkpoint*.pt"), reverse=True)


def saved_epochs(folder: Path) -> int:
    """Return after how many epochs the newest checkpoint was written; 0 without one."""
    return max((int(path.stem.removeprefix("checkpoint")) for path in checkpoints(folder)), default=0)
