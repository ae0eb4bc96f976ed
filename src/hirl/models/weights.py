"""Backbone weights: safetensors files that say what they hold, and the authors' checkpoints made into such files."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor, nn

from hirl.config import BackboneConfig, RunConfig
from hirl.files import atomic_path, pack_metadata, sha256, unpack_metadata
from hirl.models.backbones import build_backbone, interpolate_positions

State = dict[str, Tensor]

# The authors' names. `backbone` is another name for the network to evaluate: the query or online encoder of MoCo v2,
# SimSiam, SwAV and MoCo v3, the teacher without its head of DINO and iBOT (their release, hirl/models/*.py).
BACKBONES = {"baseline": "backbone.", "hirl": "model.backbone."}
# keys within a backbone that are not loaded: heads, BEiT's mask token, and an index that follows from the grid
DROPPED = ("fc.", "head.", "masked_embed", "rel_pos_bias.relative_position_index")
RENAMED = {"rel_pos_bias.relative_position_bias_table": "position_bias", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
OTHER_PARTS = {  # parts of a full checkpoint beside the backbone
    "mocov2": ("encoder_q", "encoder_k", "queue", "queue_ptr"),
    "simsiam": ("encoder", "predictor"),
    "swav": ("encoder", "prototypes", "queue"),
    "mocov3": ("encoder_q", "encoder_k", "predictor"),
    "dino": ("student", "teacher", "center"),
    "ibot": ("student", "teacher", "center", "center2"),
    "beit": ("vit_model", "dvae_model", "projector"),
}
# What the authors' full checkpoints hold beside tensors: arguments, and learning rates that numpy computed (its scalars
# had another address before numpy 2).
SAFE: list[Any] = [argparse.Namespace, np.dtype, np.dtypes.Float64DType]
SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
SAFE += [(SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")]


def save_weights(backbone: nn.Module, config: BackboneConfig, path: str | Path, **origin: str) -> None:
    """Write a backbone's state; the metadata are its name and `origin`: where the weights come from."""
    state = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, pack_metadata({"backbone": config.name} | origin))


def load_weights(backbone: nn.Module, config: BackboneConfig, path: str | Path) -> None:
    """Load a backbone strictly; half precision is widened, position embeddings of another grid are interpolated.

    Raises:
        ValueError: the file is missing, damaged or of another backbone.
    """
    stored = describe_weights(path).get("backbone", "unknown")
    if stored != config.name:
        raise ValueError(f"{path} holds weights of {stored}, not of {config.name}: give the weights of this run")
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    _fill(backbone, config, state, path)


def describe_weights(path: str | Path) -> dict[str, str]:
    """Return a file's metadata: its backbone and, if known, method, variant, source and the source's sha256.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return unpack_metadata(file.metadata())
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not a readable weights file ({error}): give a .safetensors that hirl wrote"
        ) from error


def import_weights(file: str | Path, out: str | Path, config: RunConfig) -> None:
    """Convert one of the authors' checkpoints, full or of the backbone alone, to a weights file.

    Projection heads and other networks of a full checkpoint are dropped; every other key must fit the backbone.

    Args:
        file: a .pth, read without running any code in it.
        config: the method, variant, backbone and image size of the checkpoint.

    Raises:
        ValueError: the file is not a checkpoint, is of the other variant, or does not fit the backbone key by key.
    """
    backbone = build_backbone(config.backbone, config.views.global_size)
    _fill(backbone, config.backbone, _backbone_state(_read_checkpoint(file), config, file), file)
    origin = {"method": config.method, "variant": config.variant, "source": Path(file).name, "sha256": sha256(file)}
    save_weights(backbone, config.backbone, out, **origin)


def _read_checkpoint(file: str | Path) -> State:
    """Read the state dictionary in a .pth, without the prefix that DistributedDataParallel gives every key."""
    try:
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): give one of the authors' .pth") from error
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{file} is damaged, or holds objects that cannot be rebuilt without running code: "
            "give one of the authors' .pth"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    is_state = isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
    if not is_state:
        raise ValueError(f"{file} holds no network's state, bare or under 'model': give one of the authors' .pth")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in content.items()}


def _backbone_state(state: State, config: RunConfig, file: str | Path) -> State:
    """Return the backbone in the authors' network, without projection heads; bare keys are the backbone's own."""
    found = [variant for variant, prefix in BACKBONES.items() if any(key.startswith(prefix) for key in state)]
    if found and config.variant not in found:
        raise ValueError(
            f"{file} has its backbone under {BACKBONES[found[0]]!r}, as {found[0]} has, not {config.variant}: "
            f"import it as {found[0]}"
        )
    prefix = BACKBONES[config.variant] if found else ""
    parts = (*OTHER_PARTS.get(config.algorithm, ()), "projections")
    for key in state:
        if not key.startswith(prefix) and key.removeprefix("model.").partition(".")[0] not in parts:
            raise ValueError(
                f"{file} holds {key}, which is not part of {config.method}: give the method of this checkpoint"
            )
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {_our_name(key): value for key, value in inside.items() if not key.startswith(DROPPED)}


def _our_name(key: str) -> str:
    for theirs, ours in RENAMED.items():
        key = key.replace(theirs, ours)
    return key


def _fill(backbone: nn.Module, config: BackboneConfig, state: State, path: str | Path) -> None:
    """Load a state that must fit key by key, except that positions of another square grid are interpolated."""
    expected, state = backbone.state_dict(), _interpolate_to_grid(state, backbone)
    problems = [f"no place for {key}" for key in state if key not in expected]
    problems += [f"no {key}" for key in expected if key not in state]
    for key in expected.keys() & state.keys():
        if state[key].shape != expected[key].shape:
            problems.append(f"{key} is {list(state[key].shape)}, not {list(expected[key].shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit {config.name}: {'; '.join(problems[:3])}{more}")
    backbone.load_state_dict(state)  # copies into the backbone's own dtypes


def _interpolate_to_grid(state: State, backbone: Any) -> State:
    """Interpolate a state's positions to the backbone's grid; those of no square grid are left for the shape check."""
    own, positions = backbone.state_dict(), {}
    if "pos_embed" in own.keys() & state.keys() and (side := _side(state["pos_embed"].shape[1] - 1)):
        embedding, grid = state["pos_embed"].float(), backbone.patch_embed.grid_size
        positions["pos_embed"] = interpolate_positions(embedding, (side, side), grid)
    if "position_bias" in own.keys() & state.keys() and _side(len(state["position_bias"]) - 3):
        bias, grid = state["position_bias"].float(), backbone.patch_embed.grid_size
        positions["position_bias"] = resize_rel_pos_bias_table_simple(bias, grid, own["position_bias"].shape)
    return state | positions


def _side(count: int) -> int:
    """Return the side of a square of `count` patches, or 0 if they do not form one."""
    side = math.isqrt(max(count, 0))
    return side if side**2 == count else 0
