"""Backbone weights: safetensors files that say which backbone they belong to."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hirl.config import BackboneConfig
from hirl.files import atomic_path


def save_weights(backbone: nn.Module, config: BackboneConfig, path: str | Path) -> None:
    """Writes a backbone's state, with its name as metadata."""
    state = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"backbone": config.name})


def load_weights(backbone: nn.Module, config: BackboneConfig, path: str | Path) -> None:
    """Fills a backbone, strictly; published files in half precision are widened.

    Raises:
        ValueError: the file is missing or damaged, or belongs to another backbone.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("backbone", "unknown")
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is no readable weights file ({error}): give a .safetensors that hirl wrote"
        ) from error
    if stored != config.name:
        raise ValueError(f"{path} holds weights of {stored}, not of {config.name}: give the weights of this run")
    expected = {key: value.shape for key, value in backbone.state_dict().items()}
    wrong = [key for key in expected.keys() | state.keys() if key not in state or state[key].shape != expected.get(key)]
    if wrong:
        raise ValueError(
            f"{path} does not fit {config.name}: {', '.join(sorted(wrong)[:3])} missing or of another shape"
        )
    backbone.load_state_dict(state)  # copies into the backbone's own dtypes
