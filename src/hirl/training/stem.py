"""The stem: the first epochs of a HIRL run, which are those of its baseline, trained once.

Before its first tree a HIRL run is its baseline, bit for bit: it draws the same random numbers, and the projections,
which get no gradient, are neither moved nor decayed nor part of the clipped norm. (On more than two ranks the order in
which gradients are summed depends on the parameters, so that the two agree up to rounding.)

The baseline keeps its whole state after the epochs at which HIRL runs start; a HIRL run forks from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hirl.hierarchy.wrapper import HIRL
from hirl.training.checkpoint import UNREADABLE, read_state


def stem_path(folder: Path, epochs: int) -> Path:
    """Return the path of the state after so many epochs."""
    return folder / f"epoch{epochs:04d}.pt"


def find_stem(folder: Path, epochs: int) -> Path | None:
    """Return the longest stem in a folder that has at most so many epochs, or None."""
    return max((path for path in folder.glob("epoch*.pt") if path <= stem_path(folder, epochs)), default=None)


def load_stem(path: Path, fingerprint: str) -> dict[str, Any]:
    """Return the state of a stem.

    Args:
        fingerprint: of the baseline that the run belongs to.

    Raises:
        ValueError: the file cannot be read, or another baseline wrote it.
    """
    try:
        state = read_state(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): train the baseline again") from error
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} is the state of another baseline: its configuration, seed, data or tokenizer differ; train the "
            "run's own baseline again, or leave out --stems"
        )
    return state


def graft(state: dict[str, Any], method: HIRL, optimizer: torch.optim.Optimizer) -> None:
    """Put a baseline's network and optimiser state into a HIRL run's, whose projections stay as they are."""
    method.method.load_state_dict(state["network"])
    own, taken = optimizer.state_dict(), state["optimizer"]
    shared = len(taken["param_groups"])
    # states are stored by a parameter's number in the groups, and those of the projections come last
    assert _numbers(own["param_groups"][:shared]) == _numbers(taken["param_groups"])
    groups = taken["param_groups"] + own["param_groups"][shared:]
    optimizer.load_state_dict({"state": taken["state"], "param_groups": groups})


def _numbers(groups: Iterable[dict[str, Any]]) -> list[list[int]]:
    return [group["params"] for group in groups]
