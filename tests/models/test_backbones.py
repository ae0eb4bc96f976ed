from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.config import BackboneConfig
from hirl.models.backbones import NAMES, AnyBackbone, ViT, build_backbone

SMALL_RESNETS = {"resnet18_small_images": 512, "resnet8": 128}


def vit(image_size: int = 32, **options: object) -> ViT:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name="vit_narrow_patch8", **options), image_size).eval()


@pytest.mark.parametrize(("name", "width"), [*SMALL_RESNETS.items(), ("resnet18", 512), ("vit_narrow_patch8", 96)])
def test_features_have_the_width_the_backbone_tells(name: str, width: int) -> None:
    backbone = build_backbone(BackboneConfig(name=name), 32).eval()
    assert backbone.num_features == width
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, width)


def test_parameters_of_the_papers_networks() -> None:
    """The counts of torchvision's ResNet-50 and timm's ViT-B/16, without their classifiers."""
    expected = {"resnet50": 25_557_032 - 2048 * 1000 - 1000, "vit_base_patch16": 86_567_656 - 768 * 1000 - 1000}
    for name, count in expected.items():
        with torch.device("meta"):
            backbone = build_backbone(BackboneConfig(name=name), 224)
        assert sum(parameter.numel() for parameter in backbone.parameters()) == count


@pytest.mark.parametrize(("name", "side"), [("resnet18_small_images", 32), ("resnet8", 16)])
def test_a_small_stem_is_one_convolution_without_pooling(name: str, side: int) -> None:
    backbone = build_backbone(BackboneConfig(name=name), 32)
    stem = backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(torch.randn(2, 3, 32, 32)))))
    assert stem.shape[2:] == (side, side)
    assert backbone.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("zeros", [True, False])
def test_residual_branches_start_at_zero_only_when_asked(zeros: bool) -> None:
    backbone = build_backbone(BackboneConfig(name="resnet8", zero_init_residual=zeros), 32)
    assert bool(backbone.layer1[0].bn2.weight.any()) != zeros


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet8", [0.15, 0.3]), ("resnet18", None), ("vit_narrow_patch8", [0.1, 0.2, 0.3])]
)
def test_drop_path_rises_linearly_over_the_blocks(name: str, expected: list[float] | None) -> None:
    backbone = build_backbone(BackboneConfig(name=name, drop_path=0.3), 32)
    rates = [layer.drop_prob for layer in backbone.modules() if getattr(layer, "drop_prob", 0)]
    expected = expected or [0.3 * block / 7 for block in range(1, 8)]  # the first block drops none
    assert sorted(set(rates)) == pytest.approx(expected)


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys's kernel, as bicubic interpolation uses it."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def weights(new: int, old: int) -> np.ndarray:
    """[new, old]: what each old position gives to each new one, for a scale of (new + 0.1) / old, borders repeated."""
    matrix = np.zeros((new, old))
    for target in range(new):
        source = (target + 0.5) * old / (new + 0.1) - 0.5
        for neighbour in range(math.floor(source) - 1, math.floor(source) + 3):
            matrix[target, min(max(neighbour, 0), old - 1)] += cubic(source - neighbour)
    return matrix


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 24), (56, 40)])
def test_positions_of_another_grid_are_interpolated_as_dino_does(height: int, width: int) -> None:
    backbone, rows, columns = vit(), height // 8, width // 8
    grid = backbone.pos_embed[0, 1:].detach().double().reshape(4, 4, 96).numpy()
    expected = np.einsum("ri,cj,ijd->rcd", weights(rows, 4), weights(columns, 4), grid)
    positions = backbone._positions(rows, columns)
    assert torch.equal(positions[:, 0], backbone.pos_embed[:, 0])
    # float32's seven digits, of weights that reach beyond 1 and cancel
    np.testing.assert_allclose(positions[0, 1:].detach().reshape(rows, columns, 96), expected, atol=1e-6)
    assert backbone(torch.randn(2, 3, height, width)).isfinite().all()


def test_masked_patches_become_the_mask_token_before_their_position_is_added() -> None:
    backbone, images, token = vit(), torch.randn(2, 3, 32, 32), torch.randn(96)
    mask = torch.rand(2, 4, 4) < 0.5
    patches = F.conv2d(images, backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias, stride=8)
    rows = patches.flatten(2).transpose(1, 2).clone()  # [2, 16, 96]
    for image, hidden in enumerate(mask.flatten(1).tolist()):
        for patch in range(16):
            if hidden[patch]:
                rows[image, patch] = token
    sequence = torch.cat([backbone.cls_token.expand(2, -1, -1), rows], dim=1) + backbone.pos_embed
    torch.testing.assert_close(backbone.tokens(images, mask, token), backbone.norm(backbone.blocks(sequence)))


def test_nothing_masked_is_the_plain_forward() -> None:
    backbone, images = vit(), torch.randn(2, 3, 32, 32)
    none = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert torch.equal(backbone.tokens(images, none, torch.randn(96)), backbone.tokens(images))
    # the last block computes the class token alone, in other products of matrices: float32's rounding
    torch.testing.assert_close(backbone(images), backbone.tokens(images)[:, 0], atol=1e-5, rtol=1e-5)


def test_what_a_masked_patch_showed_has_no_influence() -> None:
    backbone, images, token = vit(), torch.randn(1, 3, 32, 32), torch.randn(96)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    changed = images.clone()
    changed[:, :, 8:16, 16:24] = 0
    assert torch.equal(backbone.tokens(images, mask, token), backbone.tokens(changed, mask, token))


def test_sincos_positions_are_fixed_waves() -> None:
    """A patch has (sin, cos) of its (row, column) times 24 frequencies, 1 down to nearly 1e-4; the class token none."""
    backbone = vit(position_embedding="sincos")
    assert not backbone.pos_embed.requires_grad
    assert not backbone.pos_embed[0, 0].any()
    for patch, embedding in enumerate(backbone.pos_embed[0, 1:]):
        angles = [side / 10000 ** (i / 24) for side in divmod(patch, 4) for i in range(24)]
        torch.testing.assert_close(embedding, torch.tensor([f(a) for f in (math.sin, math.cos) for a in angles]))


def test_sincos_brings_moco_v3s_initialisation() -> None:
    backbone = vit(position_embedding="sincos")

    def uniform(weight: Tensor, fan: int) -> None:
        bound = math.sqrt(6 / fan)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of some thousand draws

    uniform(backbone.patch_embed.proj.weight, 3 * 8 * 8 + 96)
    uniform(backbone.blocks[0].attn.qkv.weight, 96 + 96)  # query, key and value each on its own
    assert all(not layer.bias.any() for layer in backbone.modules() if isinstance(layer, nn.Linear))


def relative(image_size: int = 32) -> ViT:
    """BEiT's ViT, with biases that tell every offset apart."""
    backbone = vit(image_size, position_embedding="relative", layer_scale=0.1)
    torch.nn.init.normal_(backbone.position_bias)
    return backbone


def test_relative_positions_are_one_bias_for_each_offset() -> None:
    backbone = relative()
    table, bias = backbone.position_bias, backbone._bias(4, 4)
    assert table.shape == (7 * 7 + 3, 3)
    patches = [(row, column) for row in range(4) for column in range(4)]
    for i, (row, column) in enumerate(patches, 1):
        for j, (other_row, other_column) in enumerate(patches, 1):
            offset = (row - other_row + 3) * 7 + column - other_column + 3
            assert torch.equal(bias[:, i, j], table[offset])
        assert torch.equal(bias[:, 0, i], table[-3])  # from the class token, to it, and at it
        assert torch.equal(bias[:, i, 0], table[-2])
    assert torch.equal(bias[:, 0, 0], table[-1])


def test_every_block_adds_the_bias_to_its_attention() -> None:
    backbone, images = relative(), torch.randn(2, 3, 32, 32)
    patches = F.conv2d(images, backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias, stride=8)
    tokens = torch.cat([backbone.cls_token.expand(2, -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    bias = backbone._bias(4, 4)
    for block in backbone.blocks:
        query, key, value = block.attn.qkv(block.norm1(tokens)).view(2, 17, 3, 3, 32).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(query @ key.mT / 32**0.5 + bias, dim=-1)
        tokens = tokens + block.ls1.gamma * block.attn.proj((attention @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.ls2.gamma * block.mlp(block.norm2(tokens))
    torch.testing.assert_close(backbone.tokens(images), backbone.norm(tokens), rtol=1e-4, atol=1e-5)  # other products
    torch.testing.assert_close(backbone.class_tokens(images, 1), backbone.norm(tokens)[:, 0], rtol=1e-4, atol=1e-5)


def test_without_a_bias_patches_have_no_places() -> None:
    backbone = vit(position_embedding="relative")
    assert not backbone.position_bias.any()
    images = torch.randn(1, 3, 32, 32)
    # float32 sums in another order
    torch.testing.assert_close(backbone(images), backbone(images.roll(8, 3)), rtol=1e-4, atol=1e-5)
    torch.nn.init.normal_(backbone.position_bias)
    assert not torch.allclose(backbone(images), backbone(images.roll(8, 3)), rtol=1e-2)


def test_offsets_of_another_grid_are_interpolated() -> None:
    backbone = relative()
    wide = backbone._bias(4, 6)
    assert wide.shape == (3, 25, 25)
    assert torch.equal(wide[:, 0, 0], backbone.position_bias[-1])
    middle = backbone._bias(4, 4)[:, 1, 1]
    assert torch.equal(wide[:, 3, 3], wide[:, 1, 1])  # the same offset
    torch.testing.assert_close(wide[:, 1, 1], middle)  # rows stay, and the middle column is where it was
    assert backbone(torch.randn(2, 3, 32, 48)).isfinite().all()


def test_beits_initialisation() -> None:
    """Residual branches shrink with depth: deviations 0.02 / sqrt(2 layer); layer scale starts where told."""
    backbone = vit(position_embedding="relative", layer_scale=0.1)
    for number, block in enumerate(backbone.blocks, 1):
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            # of some thousand draws
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * number), rel=0.05)
        assert (block.ls1.gamma == 0.1).all()
        assert (block.ls2.gamma == 0.1).all()
    assert backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.3)  # of 96 draws


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"backbone\.name 'resnet51' is unknown; known: resnet50, ") as caught:
        build_backbone(BackboneConfig(name="resnet51"), 32)
    assert all(name in str(caught.value) for name in NAMES)


def test_an_image_size_must_be_whole_patches() -> None:
    with pytest.raises(
        ValueError, match=r"views\.global_size 36 is not a multiple of vit_narrow_patch8's patch size 8"
    ):
        vit(36)


@pytest.mark.parametrize("options", [{}, {"position_embedding": "sincos"}, {"layer_scale": 0.1, "drop_path": 0.2}])
@pytest.mark.parametrize("training", [False, True])
def test_class_tokens_are_those_of_the_last_blocks_after_the_norm(options: dict[str, object], training: bool) -> None:
    """In value and gradient, and with the same dropped paths."""
    backbone, images, seen = vit(**options).train(training), torch.randn(2, 3, 32, 32), []
    for block in backbone.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(backbone.norm(output)[:, 0]))
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    direction = torch.randn(2, 3 * backbone.num_features)

    def with_gradients(classes: Tensor) -> tuple[Tensor, ...]:
        return classes, *torch.autograd.grad((classes * direction).sum(), parameters)

    torch.manual_seed(1)
    backbone.tokens(images)
    expected = with_gradients(torch.cat(seen[-3:], dim=1))
    torch.manual_seed(1)
    # float32 sums in another order
    torch.testing.assert_close(with_gradients(backbone.class_tokens(images, 3)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.eval().class_tokens(images, 1), backbone(images), rtol=1e-4, atol=1e-5)


# --- any other network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"])
@pytest.mark.parametrize("size", [32, 64])
def test_any_network_of_timms_is_a_backbone_for_images_of_its_size(name: str, size: int) -> None:
    backbone = build_backbone(BackboneConfig(name=name), size).eval()
    assert backbone(torch.randn(2, 3, size, size)).shape == (2, backbone.num_features)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 4, 1), r"output for two images is \[2, 4, 8, 8\]: make it features, \[2, width\]"),
        (nn.Linear(3, 4), r"the backbone fails on images \[2, 3, 8, 8\]: "),
    ],
)
def test_a_network_that_gives_no_features_is_named(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnyBackbone(network, 8)


def test_measuring_the_width_leaves_a_network_as_it_was() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 64))
    backbone = AnyBackbone(network, 8)
    assert backbone.num_features == 192
    assert network.training
    assert network[1].num_batches_tracked == 0
