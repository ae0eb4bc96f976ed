"""The parts that several methods share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hirl.config import BackboneConfig
from hirl.methods.base import (
    Encoder,
    Prototypes,
    Step,
    in_full_precision,
    momentum_copy,
    prototype_perplexity,
    require_vit,
    split_decay,
    update_momentum,
)
from hirl.models.backbones import build_backbone


def test_a_step_knows_its_epoch_and_the_share_of_the_training_before_it() -> None:
    steps = [Step(number, per_epoch=5, epochs=2, images=torch.arange(3)) for number in (0, 4, 5, 9)]
    assert [step.epoch for step in steps] == [0, 0, 1, 1]
    assert [step.progress for step in steps] == [0, 0.4, 0.5, 0.9]


class Recording(nn.Module):
    """A backbone that returns the mean colors, and remembers the shapes it got."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return images.mean(dim=(2, 3))


def test_views_of_one_size_share_a_pass_and_what_it_gives_keeps_the_order_of_the_views() -> None:
    backbone = Recording()
    views = [torch.randn(2, 3, size, size) for size in (8, 8, 4, 4, 4)]
    encoded = Encoder(backbone, nn.Linear(3, 2)).encode_multi_crop(views)
    assert backbone.seen == [(4, 3, 8, 8), (6, 3, 4, 4)]
    assert len(encoded) == len(views)
    for view, (features, embedding) in zip(views, encoded, strict=True):
        torch.testing.assert_close(features, view.mean(dim=(2, 3)))
        assert embedding.shape == (2, 2)


def test_prototypes_are_compared_by_cosine_in_float32_even_under_autocast() -> None:
    torch.manual_seed(0)
    prototypes, embedding = Prototypes(dim=6, number=4), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits = prototypes(embedding)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, F.cosine_similarity(embedding[:, None], prototypes.weight[None], dim=-1))


def test_a_loss_in_full_precision_multiplies_in_float32_under_autocast() -> None:
    matrix = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert in_full_precision(torch.mm)(matrix, matrix).dtype == torch.float32
        assert torch.mm(matrix, matrix).dtype == torch.bfloat16


def test_a_method_that_masks_patches_refuses_a_resnet() -> None:
    vit = build_backbone(BackboneConfig(name="vit_narrow_patch8"), 32)
    assert require_vit(vit, "ibot") is vit
    with pytest.raises(ValueError, match=r"^ibot masks the patches of a ViT: choose one as backbone\.name$"):
        require_vit(build_backbone(BackboneConfig(name="resnet8"), 32), "ibot")


def test_only_matrices_decay_but_for_those_left_out_and_the_frozen() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[3].requires_grad_(False)
    decayed, free = split_decay(network, without=[network[2].weight])
    assert list(map(id, decayed["params"])) == [id(network[0].weight)]
    rest = [network[0].bias, network[1].weight, network[1].bias, network[2].weight, network[2].bias]
    assert list(map(id, free["params"])) == list(map(id, rest))
    assert "decay" not in decayed
    assert free["decay"] is False


def test_a_momentum_copy_takes_no_gradient_and_drops_no_path() -> None:
    network = nn.Sequential(nn.Linear(2, 2), DropPath(0.5))
    copied = momentum_copy(network)
    assert torch.equal(copied[0].weight, network[0].weight)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert (copied[1].drop_prob, network[1].drop_prob) == (0.0, 0.5)


def test_a_momentum_update_moves_parameters_and_leaves_buffers() -> None:
    average, online = (nn.BatchNorm1d(2) for _ in range(2))
    nn.init.constant_(online.weight, 3.0)
    online.running_mean.fill_(5.0)
    update_momentum(average, online, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]  # 0.75 * 1 + 0.25 * 3
    assert average.running_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("assignments", "perplexity"),
    [
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1.0),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2.0),
        ([[1 / 3, 1 / 3, 1 / 3]], 3.0),
        ([[0.5, 0.25, 0.25]], math.exp(0.5 * math.log(2) + 0.5 * math.log(4))),
    ],
)
def test_the_perplexity_counts_the_prototypes_that_a_batch_uses(
    assignments: list[list[float]], perplexity: float
) -> None:
    assert prototype_perplexity(torch.tensor(assignments)).item() == pytest.approx(perplexity)
