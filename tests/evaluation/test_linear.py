from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hirl.config import AugmentationConfig
from hirl.data.images import load_images
from hirl.data.supervised_loader import LabelledBatches
from hirl.distributed.device import seed_step
from hirl.evaluation import linear
from hirl.evaluation.linear import train_and_evaluate
from hirl.evaluation.supervised import load_backbone
from hirl.models.weights import save_weights
from hirl.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
SETTINGS = {
    "epochs": 3,
    "batch_size": 16,
    "precision": "fp32",
    "optimizer": {"name": "sgd", "base_lr": 4.0, "momentum": 0.9, "weight_decay": 1e-3},
    "schedule": {"warmup_epochs": 0, "milestones": []},
    "head_std": 0.01,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def train(config: Any, data: Path, scratch: Path, weights: Path | None = None):
    return train_and_evaluate("linear", config, weights, data, scratch, "run")


def trained_head(scratch: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(scratch)["network"]


def reference_features(backbone: torch.nn.Module, last_blocks: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of views to features: a ViT's class tokens of the last blocks, read by hooks, or a ResNet's."""
    seen: list[torch.Tensor] = []
    for block in backbone.blocks[-last_blocks:] if hasattr(backbone, "blocks") else ():
        block.register_forward_hook(lambda module, inputs, output: seen.append(backbone.norm(output)[:, 0]))

    @torch.no_grad()
    def features(views: torch.Tensor) -> torch.Tensor:
        seen.clear()
        if not hasattr(backbone, "blocks"):
            return backbone(views)
        backbone.tokens(views)  # all of them, block by block
        return torch.cat(seen, dim=1)

    return features


@pytest.mark.parametrize(("method", "last_blocks"), [("simsiam", 1), ("dino", 1), ("dino", 3)])
def test_the_classifier_is_softmax_regression_on_the_features_of_views(
    tiny_run, tiny_data, tmp_path, method: str, last_blocks: int
) -> None:
    config = tiny_run(method, evaluation={"linear": SETTINGS | {"last_blocks": last_blocks}})
    backbone = load_backbone(config.model_copy(update={"seed": 3}), None, 32).eval()
    save_weights(backbone, config.backbone, tmp_path / "weights.safetensors")
    result = train(config, tiny_data, tmp_path / "scratch", tmp_path / "weights.safetensors")

    features = reference_features(backbone, last_blocks)
    batches = LabelledBatches(load_images(tiny_data, "train"), 16, AugmentationConfig(), 0, CPU)
    torch.manual_seed(config.seed)
    load_backbone(config, None, 32)
    head = torch.nn.Linear(last_blocks * backbone.num_features, 4)
    head.weight.data.normal_(0, 0.01)
    head.bias.data.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-3)
    number, losses = 0, []
    for epoch in range(3):
        seed_step(0, number)
        for views, targets in batches(epoch):
            optimizer.param_groups[0]["lr"] = 4.0 * 16 / 256 * (1 + math.cos(math.pi * number / 12)) / 2
            loss = F.cross_entropy(head(features(views)), targets.argmax(dim=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            number += 1
            seed_step(0, number)

    expected = torch.tensor(losses).view(3, 4).mean(dim=1).tolist()
    assert [row["loss"] for row in result.history] == pytest.approx(expected, rel=1e-4)  # float32, other kernels
    found = trained_head(tmp_path / "scratch")
    torch.testing.assert_close(found["weight"], head.weight.detach(), rtol=1e-3, atol=1e-4)
    images = load_images(tiny_data, "validation")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    hits = head(features((images.images / 255 - mean) / std)).argmax(dim=1) == images.labels[:, 0]
    assert result.metrics["top1"] == pytest.approx(100 * hits.float().mean().item(), abs=1.6)  # one of 64 on the edge


@pytest.mark.parametrize("method", ["simsiam", "dino"])
def test_the_backbone_is_bit_equal_afterwards(tiny_run, tiny_data, tmp_path, monkeypatch, method: str) -> None:
    config = tiny_run(method, evaluation={"linear": SETTINGS})
    backbone = load_backbone(config, None, 32)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    monkeypatch.setattr(linear, "load_backbone", lambda *_: backbone)
    train(config, tiny_data, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("method", ["simsiam", "dino"])
def test_two_classes_of_different_colors_are_separated(tiny_run, red_and_blue, tmp_path, method: str) -> None:
    result = train(tiny_run(method, evaluation={"linear": SETTINGS | {"epochs": 15}}), red_and_blue, tmp_path)
    assert result.metrics == {"top1": 100, "top5": 100}
    assert result.settings["optimizer"]["base_lr"] == 4
    assert [row["epoch"] for row in result.history] == list(range(15))


def test_an_interrupted_training_resumes_to_the_same_bits(tiny_run, tiny_data, tmp_path, kill_after) -> None:
    config = tiny_run("simsiam", evaluation={"linear": SETTINGS})
    expected = train(config, tiny_data, tmp_path / "whole")
    kill_after(linear, 6, lambda: train(config, tiny_data, tmp_path / "killed"))
    assert len(load_checkpoint(tmp_path / "killed")["history"]) == 1
    resumed = train(config, tiny_data, tmp_path / "killed")
    assert resumed.metrics == expected.metrics
    one, other = (trained_head(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_first_weights_have_the_deviation_asked_for(tiny_run) -> None:
    config = tiny_run("dino", evaluation={"linear": {"head_std": 2e-5}})
    head = linear.new_head(load_backbone(config, None, 32), config.evaluation.linear, 500)
    assert head.weight.std().item() == pytest.approx(2e-5, rel=0.02)  # of 48,000 draws
    assert not head.bias.any()


def test_more_blocks_than_there_are_is_refused(tiny_run, tiny_data, tmp_path) -> None:
    config = tiny_run("dino", evaluation={"linear": SETTINGS | {"last_blocks": 5}})
    with pytest.raises(ValueError, match=r"evaluation\.linear\.last_blocks is 5, but the ViT has 4: lower it"):
        train(config, tiny_data, tmp_path)
