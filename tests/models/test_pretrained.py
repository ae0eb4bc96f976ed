from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from hirl.config import BackboneConfig, load_study
from hirl.models import pretrained
from hirl.models.backbones import build_backbone, build_timm
from hirl.models.pretrained import open_pretrained
from hirl.models.weights import save_weights

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TINY = "test_vit"  # timm's smallest networks are made for tests


def same_features(one, other, images=IMAGES):
    with torch.no_grad():
        return torch.equal(one.eval()(images), other.eval()(images))


@pytest.fixture
def run(tmp_path):
    """The folder of a run, and its backbone."""
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_narrow_patch8", position_embedding="relative", layer_scale=0.1)
    backbone = build_backbone(config, 32)
    save_weights(backbone, config, tmp_path / "weights.safetensors", method="beit", variant="hirl")
    return tmp_path, backbone


def test_weights_of_a_run_open_by_file_and_by_folder(run):
    folder, backbone = run
    for place in (folder, folder / "weights.safetensors"):
        opened = open_pretrained(place)
        assert same_features(opened.backbone, backbone)
        assert opened.image_size == 32
        assert opened.config.position_embedding == "relative"
        assert "beit-hirl" in opened.origin


def test_the_configuration_beside_the_weights_knows_the_image_size(run):
    folder, _ = run
    backbone = {"name": "vit_narrow_patch8", "position_embedding": "relative", "layer_scale": 0.1}
    (folder / "config.json").write_text(json.dumps({"backbone": backbone, "views": {"global_size": 64}}))
    assert open_pretrained(folder).image_size == 64
    assert open_pretrained(folder, image_size=48).image_size == 48


def test_a_run_of_a_study_opens_by_its_name(run, monkeypatch):
    folder, backbone = run
    (folder / "demo/beit-hirl-s0").mkdir(parents=True)
    (folder / "weights.safetensors").rename(folder / "demo/beit-hirl-s0/weights.safetensors")
    monkeypatch.setattr(pretrained, "OURS", folder)
    assert same_features(open_pretrained("beit-hirl-s0").backbone, backbone)


def test_a_checkpoint_of_the_authors_is_recognised_by_its_name(tmp_path):
    config = load_study("imagenet").resolve("mocov2", "hirl")
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone, 224)
    path = tmp_path / "hirl_mocov2_200eps_backbone.pth"
    torch.save({f"model.backbone.{key}": value for key, value in backbone.state_dict().items()}, path)
    opened = open_pretrained(path, image_size=32)
    assert same_features(opened.backbone, backbone)
    assert "the authors'" in opened.origin


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("says", ["name", "config", "argument"])
def test_a_checkpoint_of_timm_says_its_network_or_is_told(tmp_path, suffix, says):
    torch.manual_seed(0)
    network = timm.create_model(TINY, num_classes=5)
    path = tmp_path / (f"{TINY}.mine.{suffix}" if says == "name" else f"model.{suffix}")
    save_file(network.state_dict(), path) if suffix == "safetensors" else torch.save(network.state_dict(), path)
    if says == "config":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": TINY}))
    opened = open_pretrained(path, TINY if says == "argument" else None)
    assert opened.config.name == f"timm:{TINY}"
    again = build_backbone(opened.config, opened.image_size)
    again.load_state_dict(opened.backbone.state_dict())
    images = torch.rand(2, 3, opened.image_size, opened.image_size)
    assert same_features(opened.backbone, again, images)
    weight = opened.backbone.network.patch_embed.proj.weight
    assert torch.equal(weight, network.patch_embed.proj.weight)


def test_a_network_with_its_own_normalization_gets_what_it_was_trained_with():
    backbone = build_timm("vit_tiny_patch16_224", 32).eval()  # mean and standard deviation 1/2
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        found = backbone((IMAGES - mean) / std)
        expected = backbone.network((IMAGES - 0.5) / 0.5)
    assert np.allclose(found, expected, atol=1e-5)  # one affine map instead of two


def test_what_cannot_be_opened_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "model.pth").write_bytes(b"nothing")
    (tmp_path / "test_vit.pth").write_bytes(b"nothing")
    monkeypatch.setattr(timm, "create_model", _no_network(timm.create_model))
    for weights, network, said in (
        ("nowhere", None, "nowhere is no file and no known name: give a file of weights, or a name such as"),
        (tmp_path / "model.pth", None, "does not say which network it holds: name it as timm does with --network"),
        (tmp_path / "model.pth", "resnet17", "timm has no network 'resnet17'"),
        (tmp_path / "test_vit.pth", None, "does not fit timm's test_vit"),
        (TINY, None, "the weights of timm's test_vit cannot be fetched (no route): give their file"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            open_pretrained(weights, network)
        assert said in str(caught.value)


def _no_network(create):
    """Return timm.create_model on a machine without a network."""

    def offline(name, pretrained=False, **options):
        if pretrained and "pretrained_cfg_overlay" not in options:
            raise OSError("no route")
        return create(name, pretrained=pretrained, **options)

    return offline
