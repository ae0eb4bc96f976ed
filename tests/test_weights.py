from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hirl.backbones import build_backbone
from hirl.config import BackboneConfig
from hirl.weights import load_weights, save_weights

RESNET = BackboneConfig(name="resnet8")
VIT = BackboneConfig(name="vit_narrow_patch8", position_embedding="sincos")


@pytest.mark.parametrize("config", [RESNET, VIT], ids=lambda config: config.name)
def test_a_round_trip_is_exact(tmp_path: Path, config: BackboneConfig) -> None:
    path, images = tmp_path / "weights.safetensors", torch.randn(4, 3, 32, 32)
    backbone, other = build_backbone(config, 32), build_backbone(config, 32)
    backbone(images)  # moves the batch norms' running statistics
    save_weights(backbone.to(memory_format=torch.channels_last), config, path)
    load_weights(other, config, path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path, backbone = tmp_path / "weights.safetensors", build_backbone(RESNET, 32)
    save_weights(backbone.half(), RESNET, path)
    other = build_backbone(RESNET, 32)
    load_weights(other, RESNET, path)
    assert other.conv1.weight.dtype == torch.float32
    assert torch.equal(other.conv1.weight, backbone.conv1.weight.float())


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_backbone(RESNET, 32), RESNET, path)
    with pytest.raises(ValueError, match=r"holds weights of resnet8, not of vit_narrow_patch8"):
        load_weights(build_backbone(VIT, 32), VIT, path)


def test_a_missing_or_foreign_key_is_named(tmp_path: Path) -> None:
    path, backbone = tmp_path / "weights.safetensors", build_backbone(RESNET, 32)
    save_weights(backbone, RESNET, path)
    state = load_file(path)
    state["fc.weight"] = state.pop("conv1.weight")
    save_file(state, path, metadata={"backbone": RESNET.name})
    before = backbone.bn1.weight.clone()
    with pytest.raises(ValueError, match=r"does not fit resnet8: conv1\.weight, fc\.weight"):
        load_weights(backbone, RESNET, path)
    assert torch.equal(backbone.bn1.weight, before)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file at all"], ids=["missing", "empty", "text"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors is no readable weights file"):
        load_weights(build_backbone(RESNET, 32), RESNET, path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_backbone(RESNET, 32), RESNET, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no readable weights file"):
        load_weights(build_backbone(RESNET, 32), RESNET, path)
