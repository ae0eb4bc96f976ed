"""Counted operations, against published ones and against forward passes."""

from __future__ import annotations

import pytest
import torch

from hirl.config import BackboneConfig
from hirl.models.backbones import build_backbone
from hirl.planning.count import count


@pytest.mark.parametrize(("name", "multiplications"), [("resnet50", 4.09e9), ("vit_base_patch16", 17.56e9)])
def test_a_forward_pass_has_the_published_operations(name, multiplications):
    """He et al. and Dosovitskiy et al. by fvcore's count, at 224 pixels; attention's products included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name), 224)
        getattr(backbone, "tokens", backbone)(torch.empty(1, 3, 224, 224))  # all tokens of a ViT, as they count
    assert counter.get_total_flops() == pytest.approx(2 * multiplications, rel=0.02)  # counts of small layers differ


def test_a_step_of_simsiam_is_thrice_its_views_forward(tiny_run):
    counts = count(tiny_run("simsiam"))
    assert counts.width == 128
    assert counts.embedding_dim == 16
    # two views forward and backward; the first convolution has no gradient to its images, heads add little
    assert 5.5 * counts.forward < counts.step < 6.5 * counts.forward
    assert counts.static > 3 * counts.weights  # weights, gradients and momentum, of backbone and heads


def test_a_momentum_encoder_costs_forward_passes_more(tiny_run):
    counts = count(tiny_run("mocov2"))
    assert 3.5 * counts.forward < counts.step < 4.5 * counts.forward  # one view learns, the other makes keys
