from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hirl.config import BackboneConfig, BEiTConfig
from hirl.data.masks import block_masks
from hirl.data.views import evaluation_view
from hirl.methods import beit
from hirl.methods.beit import BEiT, masked_token_loss
from hirl.models.backbones import build_backbone
from hirl.models.tokenizer import DiscreteVAE, Tokenizer
from tests.methods.reference_losses import SINGLE, Array, cross_entropy, numbers


@pytest.fixture
def set_mask(monkeypatch: pytest.MonkeyPatch):
    """A function that replaces the random masks by a given one, [B, 4, 4]."""
    return lambda mask: monkeypatch.setattr(beit, "block_masks", lambda *_: mask)


def random_mask(images: int = 8) -> Tensor:
    """Return a different mask for every image; the first image is not masked."""
    mask = torch.rand(images, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0] = False
    return mask


def slow_token_loss(logits: Array, tokens: Array, mask: Array) -> float:
    """[B, P, V] logits, [B, P] tokens and mask: the mean over all masked patches of the batch."""
    losses = []
    for image_logits, image_tokens, image_mask in zip(logits, tokens, mask, strict=True):
        for patch_logits, token, masked in zip(image_logits, image_tokens, image_mask, strict=True):
            if masked:
                target = [float(id == token) for id in range(len(patch_logits))]
                losses.append(cross_entropy(target, patch_logits))
    return sum(losses) / len(losses)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    logits, tokens, mask = torch.randn(8, 16, 5), torch.randint(5, (8, 16)), random_mask().flatten(1)
    expected = slow_token_loss(numbers(logits), tokens.numpy(), mask.numpy())
    assert masked_token_loss(logits[mask], tokens[mask]).item() == pytest.approx(expected, rel=SINGLE)
    assert masked_token_loss(logits[:0, 0], tokens[:0, 0]) == 0  # no patch is masked


def test_step_predicts_the_whole_views_tokens_at_masked_patches(make_method, draw_views, step_at, set_mask) -> None:
    method, (view, *_), mask = make_method("beit").train(), draw_views(), random_mask()
    set_mask(mask)
    every_patch = method.token_head(method.backbone.tokens(view, mask, method.mask_token)[:, 1:])
    tokens = method._visual_tokens(view, 4).flatten(1)
    output = method([view], step_at())
    expected = slow_token_loss(numbers(every_patch), tokens.numpy(), mask.flatten(1).numpy())
    assert output.loss.item() == pytest.approx(expected, rel=SINGLE)
    hit = (every_patch.argmax(dim=2) == tokens)[mask.flatten(1)].double().mean().item()
    assert output.metrics["token_accuracy"].item() == pytest.approx(hit)


def test_no_gradient_comes_from_visible_patches(make_method, draw_views, step_at, set_mask) -> None:
    method, mask, outputs = make_method("beit").train(), random_mask(), []
    set_mask(mask)
    tokens_of = method.backbone.tokens

    def watched(*args: Tensor) -> Tensor:
        outputs.append(tokens_of(*args))
        outputs[0].retain_grad()
        return outputs[0]

    method.backbone.tokens = watched
    method(draw_views(), step_at()).loss.backward()
    gradient = outputs[0].grad
    assert not gradient[:, 0].any()  # of the class token's output
    assert not gradient[:, 1:][~mask.flatten(1)].any()
    assert gradient[:, 1:][mask.flatten(1)].any(dim=1).all()


def test_the_pixels_of_a_masked_patch_decide_its_target_only(make_method, draw_views, step_at, set_mask) -> None:
    """The tokenizer sees them, the network does not."""
    method, (view, *_) = make_method("beit").eval(), draw_views()
    mask = torch.zeros(8, 4, 4, dtype=torch.bool)
    mask[:, 1, 2] = True
    set_mask(mask)
    changed = view.clone()
    changed[:, :, 8:16, 16:24] = -view[:, :, 8:16, 16:24]
    logits = [method.token_head(method.backbone.tokens(v, mask, method.mask_token)) for v in (view, changed)]
    assert torch.equal(*logits)
    assert torch.equal(method([view], step_at()).embedding, method([changed], step_at()).embedding)


# --- its parts --------------------------------------------------------------------------------------------------------


def test_masks_are_75_of_196_patches() -> None:
    """num_masking_patches of the authors, never exceeded, hardly missed."""
    torch.manual_seed(0)
    counts = block_masks(500, 14, BEiTConfig()).sum((1, 2))
    assert counts.max() == 75
    assert counts.double().mean() > 0.95 * 75  # ten attempts in a row may fail


class Means(nn.Module):
    """A tokenizer whose token is the mean of 4 x 4 pixels, in tenths; it keeps the size of its last images."""

    vocabulary, patch_size = 11, 4

    def forward(self, images: Tensor) -> Tensor:
        self.side = images.shape[-1]
        levels = torch.arange(11).view(1, -1, 1, 1) / 10
        return -(nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4) - levels).abs()


@pytest.mark.parametrize(("patch", "side"), [(8, 16), (4, 32)])
def test_there_is_one_token_for_every_patch_of_the_views_pixels(patch: int, side: int) -> None:
    name = {8: "vit_narrow_patch8", 4: "vitc_narrow_patch4"}[patch]
    method = BEiT(build_backbone(BackboneConfig(name=name), 32), BEiTConfig(), Tokenizer(Means()))
    grid = 32 // patch
    levels = torch.randint(11, (2, grid, grid), generator=torch.Generator().manual_seed(0))
    pixels = (levels * 25.5).round().byte()[:, None].repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    tokens = method._visual_tokens(evaluation_view(pixels.expand(2, 3, 32, 32)), grid)
    assert method.tokenizer.network.side == side
    if side == 32:
        assert torch.equal(tokens, levels)
    else:  # halved bicubically, neighbours reach a little into a patch
        assert (tokens - levels).abs().max() <= 1


def test_the_embedding_is_the_class_token_of_the_masked_view(make_method, draw_views, step_at, set_mask) -> None:
    method, (view, *_), mask = make_method("beit").eval(), draw_views(), random_mask()
    set_mask(mask)
    embedding = method([view], step_at()).embedding
    assert torch.equal(embedding, method.backbone.tokens(view, mask, method.mask_token)[:, 0])
    assert torch.equal(method.embed(view), method.backbone(view))
    assert not torch.equal(embedding[1:], method.embed(view)[1:])


def test_weight_decay_is_the_authors(make_method) -> None:
    """None on vectors and the class token; the mask token and the position bias have it (hirl/utils/misc.py)."""
    method = make_method("beit")
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in method.parameter_groups())
    assert {"mask_token", "encoder.backbone.position_bias", "token_head.weight"} <= decayed
    assert {"encoder.backbone.cls_token", "encoder.backbone.blocks.0.ls1.gamma", "token_head.bias"} <= free
    assert all(method.get_parameter(name).ndim > 1 for name in decayed)


def test_the_tokenizer_is_neither_trained_nor_saved(make_method) -> None:
    method = make_method("beit")
    assert not [name for name, _ in method.named_parameters() if "tokenizer" in name]
    assert not [name for name in method.state_dict() if "tokenizer" in name]
    assert not any(parameter.requires_grad for parameter in method.tokenizer.network.parameters())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_tokenizer_coarser_than_the_patches_is_refused() -> None:
    backbone = build_backbone(BackboneConfig(name="vitc_narrow_patch4"), 32)
    coarse = Tokenizer(DiscreteVAE(vocabulary=8, width=4, patch_size=8))
    message = "makes one token of 8 pixels a side, the backbone one patch of 4: give a tokenizer of at most 4"
    with pytest.raises(ValueError, match=message) as caught:
        BEiT(backbone, BEiTConfig(), coarse)
    assert "\n" not in str(caught.value)


def test_a_network_without_patches_is_refused() -> None:
    tokenizer = Tokenizer(DiscreteVAE(vocabulary=8, width=4, patch_size=4))
    with pytest.raises(ValueError, match=r"masks the patches of a ViT: choose one as backbone\.name"):
        BEiT(build_backbone(BackboneConfig(name="resnet8"), 32), BEiTConfig(), tokenizer)
