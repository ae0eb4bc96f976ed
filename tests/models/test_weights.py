"""Weights files, the authors' checkpoints made into them, and what timm makes of ours."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from torch import Tensor, nn
from torchvision.models import resnet18

from hirl.config import BackboneConfig, RunConfig
from hirl.models.backbones import build_backbone
from hirl.models.weights import describe_weights, import_weights, load_weights, save_weights

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


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    backbone, origin = build_backbone(RESNET, 32), {"method": "dino", "variant": "hirl", "source": "x", "sha256": "0"}
    contents = set()
    for _ in range(20):  # metadata of several keys would come in several orders
        save_weights(backbone, RESNET, tmp_path / "weights.safetensors", **origin)
        contents.add((tmp_path / "weights.safetensors").read_bytes())
    assert len(contents) == 1
    assert describe_weights(tmp_path / "weights.safetensors") == {"backbone": RESNET.name} | origin


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
    with pytest.raises(ValueError, match=r"does not fit resnet8: no place for fc\.weight; no conv1\.weight$"):
        load_weights(backbone, RESNET, path)
    assert torch.equal(backbone.bn1.weight, before)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file at all"], ids=["missing", "empty", "text"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a readable weights file"):
        load_weights(build_backbone(RESNET, 32), RESNET, path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_backbone(RESNET, 32), RESNET, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a readable weights file"):
        load_weights(build_backbone(RESNET, 32), RESNET, path)


def test_positions_of_another_grid_are_interpolated_as_dino_does(tmp_path: Path) -> None:
    path, config = tmp_path / "weights.safetensors", VIT.model_copy(update={"position_embedding": "learned"})
    small, large = build_backbone(config, 32), build_backbone(config, 56)  # grids of 4 and 7
    save_weights(small, config, path)
    load_weights(large, config, path)
    grid = small.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, scale_factor=7.1 / 4, mode="bicubic")
    assert torch.equal(large.pos_embed[:, 0], small.pos_embed[:, 0])
    torch.testing.assert_close(large.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    # one network at two sizes: the small one interpolates as it goes
    images = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(small.eval()(images), large.eval()(images))


def test_relative_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    path, config = tmp_path / "weights.safetensors", BackboneConfig(name=VIT.name, position_embedding="relative")
    small, large = build_backbone(config, 32).eval(), build_backbone(config, 56).eval()
    nn.init.normal_(small.position_bias)
    save_weights(small, config, path)
    load_weights(large, config, path)
    images = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(small(images), large(images))


def test_positions_of_no_square_grid_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_backbone(VIT, 32), VIT, path)
    state = load_file(path)
    save_file(state | {"pos_embed": torch.zeros(1, 14, 96)}, path, metadata={"backbone": VIT.name})
    with pytest.raises(ValueError, match=r"pos_embed is \[1, 14, 96\], not \[1, 17, 96\]"):
        load_weights(build_backbone(VIT, 32), VIT, path)


def test_a_file_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(build_backbone(RESNET, 32), RESNET, path, method="swav", variant="hirl")
    assert describe_weights(path) == {"backbone": "resnet8", "method": "swav", "variant": "hirl"}


# --- the authors' checkpoints -----------------------------------------------------------------------------------------
# Networks of the release's key names with little inside: torchvision's ResNet, and the names of its ViT written out.

State = dict[str, Tensor]


@cache
def authors_resnet(head: Callable[[], nn.Module]) -> State:
    torch.manual_seed(1)
    network = resnet18()
    network.fc = head()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 2)
    return network.state_dict()


def authors_vit(grid: int = 4, width: int = 96, depth: int = 4, **more: Tensor) -> State:
    torch.manual_seed(1)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 8, 8), "patch_embed.proj.bias": (width,)}
    for block in range(depth):
        name = f"blocks.{block}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
        for layer, before, after in (
            ("attn.qkv", width, 3 * width),
            ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width),
            ("mlp.fc2", 4 * width, width),
        ):
            shapes |= {f"{name}.{layer}.weight": (after, before), f"{name}.{layer}.bias": (after,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()} | more


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def moco_head() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))


def simsiam_head() -> nn.Module:
    hidden = (nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU())
    return nn.Sequential(*hidden, *hidden, nn.Linear(512, 512), nn.BatchNorm1d(512, affine=False))


def swav_head() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 128))


VIT_HEAD = {"head.0.weight": torch.ones(8, 96), "head.1.running_mean": torch.ones(8)}  # of MoCo v3
MASK = {"masked_embed": torch.ones(1, 96)}


def whole_network(method: str) -> State:
    """All that a baseline's full checkpoint holds: `backbone` a second name of the network that is evaluated."""
    if method == "mocov2":
        network = authors_resnet(moco_head)
        rest = under("encoder_k.", network) | {"queue": torch.ones(128, 4), "queue_ptr": torch.zeros(1)}
        return under("encoder_q.", network) | under("backbone.", network) | rest
    if method in ("simsiam", "swav"):
        network = authors_resnet(simsiam_head if method == "simsiam" else swav_head)
        last = {"predictor.0.weight": torch.ones(2)} if method == "simsiam" else {"prototypes.weight": torch.ones(2)}
        return under("encoder.", network) | under("backbone.", network) | last
    if method == "mocov3":
        network = authors_vit() | VIT_HEAD
        key = under("encoder_k.", network) | {"predictor.0.weight": torch.ones(2)}
        return under("encoder_q.", network) | under("backbone.", network) | key
    teacher, student = authors_vit(), {key: value + 1 for key, value in authors_vit(**MASK).items()}
    centers = {"center": torch.zeros(1, 8)} | ({"center2": torch.zeros(1, 1, 8)} if method == "ibot" else {})
    heads = {f"{side}.head.last_layer.weight_v": torch.ones(8, 8) for side in ("teacher", "student")}
    networks = under("teacher.backbone.", teacher) | under("student.backbone.", student)
    return networks | under("backbone.", teacher) | heads | centers


def checkpoint(layout: str, method: str, variant: str) -> dict[str, object]:
    """A checkpoint as the authors lay it out: full or backbone alone, as trained or freed of its prefixes."""
    state = whole_network(method)
    if "backbone" in layout:
        state = {key: value for key, value in state.items() if key.startswith("backbone.")}
    if variant == "hirl":
        projections = {} if "backbone" in layout else {"projections.0.layers.0.weight": torch.ones(2, 2)}
        state = under("model.", state) | projections
    if "module" in layout:
        state = under("module.", state)
    if "full" not in layout:
        return {"model": state}
    # DINO's learning rates come from a numpy schedule
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": np.linspace(0, 1, 3)[1]}]}
    args = argparse.Namespace(lr=0.1, dataset=argparse.Namespace(name="ImageNet"))
    return {"epoch": 200, "args": args, "model": state, "optimizer": optimizer, "loss_scaler": {"scale": 1.0}}


BACKBONES = dict.fromkeys(("mocov2", "simsiam", "swav"), "resnet18") | dict.fromkeys(
    ("mocov3", "dino", "ibot"), "vit_narrow_patch8"
)
HEADS = {"mocov2": moco_head, "simsiam": simsiam_head, "swav": swav_head}


@pytest.fixture
def config_of(tiny_run) -> Callable[..., RunConfig]:
    def build(method: str, variant: str = "baseline", **more: object) -> RunConfig:
        return tiny_run(method, variant, **({"backbone": {"name": BACKBONES[method]}} | more))

    return build


EVERY_LAYOUT = ["full module", "full", "backbone module", "backbone"]
CASES = [("dino", layout) for layout in EVERY_LAYOUT] + [("swav", "backbone")]
CASES += [(method, "full module") for method in BACKBONES if method != "dino"]


@pytest.mark.parametrize("variant", ["baseline", "hirl"])
@pytest.mark.parametrize(("method", "layout"), CASES)
def test_every_layout_is_read(tmp_path, config_of, method: str, variant: str, layout: str) -> None:
    source, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(checkpoint(layout, method, variant), source)
    import_weights(source, out, config_of(method, variant))
    expected = authors_resnet(HEADS[method]) if method in HEADS else authors_vit()
    ours = load_file(out)
    assert ours.keys() == {key for key in expected if not key.startswith("fc.")}
    assert all(torch.equal(value, expected[key]) for key, value in ours.items())
    assert describe_weights(out) == {
        "backbone": BACKBONES[method],
        "method": method,
        "variant": variant,
        "source": "theirs.pth",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }


def test_bare_keys_are_the_backbones_own(tmp_path, config_of) -> None:
    expected = authors_vit()
    torch.save(expected | VIT_HEAD, tmp_path / "theirs.pth")
    import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config_of("mocov3", "hirl"))
    assert load_file(tmp_path / "ours.safetensors").keys() == expected.keys()


def test_an_imported_resnet_gives_torchvisions_features(tmp_path, config_of) -> None:
    theirs, config = resnet18().eval(), config_of("swav")
    theirs.fc = nn.Identity()
    theirs.load_state_dict({key: value for key, value in authors_resnet(swav_head).items() if key[:3] != "fc."})
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config)
    ours, images = build_backbone(config.backbone, 32).eval(), torch.randn(2, 3, 64, 64)
    load_weights(ours, config.backbone, tmp_path / "ours.safetensors")
    torch.testing.assert_close(ours(images), theirs(images))


def test_a_checkpoint_of_another_image_size_is_interpolated(tmp_path, config_of) -> None:
    state = authors_vit(grid=7)
    torch.save(state, tmp_path / "theirs.pth")
    import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config_of("dino"))
    grid = state["pos_embed"][:, 1:].reshape(1, 7, 7, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, scale_factor=4.1 / 7, mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(load_file(tmp_path / "ours.safetensors")["pos_embed"][:, 1:], expected)


def test_an_imported_beit_gives_timms_features(tmp_path, config_of) -> None:
    """timm's BEiT has a query and a value bias, the release's one for all three, of which the key's changes nothing."""
    torch.manual_seed(1)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "num_classes": 0}
    positions = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True}
    norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = Beit(**sizes, **positions, init_values=0.1, global_pool="token", norm_layer=norm).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = theirs.state_dict()
    for block in range(4):
        query, value = (state.pop(f"blocks.{block}.attn.{name}_bias") for name in "qv")
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, torch.zeros(96), value])
    state |= MASK | {"head.weight": torch.ones(5, 96), "rel_pos_bias.relative_position_index": torch.zeros(17, 17)}
    torch.save({"model": under("module.backbone.", state)}, tmp_path / "theirs.pth")
    backbone = {"name": "vit_narrow_patch8", "position_embedding": "relative", "layer_scale": 0.1}
    config = config_of("dino", backbone=backbone).model_copy(update={"algorithm": "beit"})
    import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config)
    ours, images = build_backbone(config.backbone, 32).eval(), torch.randn(2, 3, 32, 32)
    load_weights(ours, config.backbone, tmp_path / "ours.safetensors")
    # float32, and attention's products in another order
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


def refused(tmp_path: Path, config: RunConfig, content: object, match: str) -> None:
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=match) as error:
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_key_without_a_home_is_named(tmp_path, config_of) -> None:
    strange = authors_vit(**{"blocks.0.attn.rotary": torch.ones(1)})
    refused(tmp_path, config_of("dino"), {"model": strange}, r"no place for blocks\.0\.attn\.rotary$")
    refused(
        tmp_path, config_of("dino"), {"model": under("backbone.", strange)}, r"no place for blocks\.0\.attn\.rotary$"
    )


def test_a_missing_key_is_named(tmp_path, config_of) -> None:
    state = {**authors_resnet(moco_head)}
    del state["layer4.1.bn2.running_var"]
    refused(tmp_path, config_of("mocov2"), state, r"does not fit resnet18: no layer4\.1\.bn2\.running_var$")


def test_a_key_of_another_shape_is_named(tmp_path, config_of) -> None:
    state = authors_vit() | {"norm.bias": torch.ones(3)}
    refused(tmp_path, config_of("dino"), state, r"norm\.bias is \[3\], not \[96\]$")


def test_many_misfits_are_counted(tmp_path, config_of) -> None:
    match = r"does not fit vit_narrow_patch8: no place for conv1.weight; .*; .* and \d+ more$"
    refused(tmp_path, config_of("dino"), authors_resnet(moco_head), match)


def test_the_other_variant_is_named(tmp_path, config_of) -> None:
    theirs = checkpoint("full module", "dino", "hirl")
    refused(tmp_path, config_of("dino"), theirs, r"under 'model\.backbone\.', as hirl has, not baseline")
    theirs = checkpoint("backbone", "dino", "baseline")
    refused(tmp_path, config_of("dino", "hirl"), theirs, r"under 'backbone\.', as baseline has, not hirl")


def test_a_full_checkpoint_of_another_method_is_named(tmp_path, config_of) -> None:
    theirs = checkpoint("full module", "mocov3", "baseline")
    refused(tmp_path, config_of("dino"), theirs, r"holds encoder_q\.cls_token, which is not part of dino")


@pytest.mark.parametrize(
    "content", [torch.ones(2), {"model": {"epoch": 3}}, {0: torch.ones(2)}], ids=["tensor", "no tensors", "no names"]
)
def test_a_file_without_a_state_is_named(tmp_path, config_of, content) -> None:
    refused(tmp_path, config_of("dino"), content, "holds no network's state")


class Malice:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def test_no_code_in_a_checkpoint_runs(tmp_path, config_of, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, config_of("dino"), {"model": authors_vit(), "args": Malice()}, "without running code")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("keep", [0, 100, -100], ids=["nothing", "the beginning", "all but the end"])
def test_a_damaged_checkpoint_is_named(tmp_path, config_of, keep: int) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"model": authors_vit()}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"theirs\.pth is damaged, or holds"):
        import_weights(path, tmp_path / "ours.safetensors", config_of("dino"))


def test_a_missing_checkpoint_is_named(tmp_path, config_of) -> None:
    with pytest.raises(ValueError, match=r"theirs\.pth cannot be read \(No such file or directory\)"):
        import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config_of("dino"))


def test_numbers_that_numpy_1_pickled_are_read(tmp_path, config_of) -> None:
    """The authors' numpy had its scalars at another address."""
    torch.save(checkpoint("full module", "dino", "baseline"), tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "theirs.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    import_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", config_of("dino"))
    assert b"numpy.core.multiarray" in (tmp_path / "theirs.pth").read_bytes()


# --- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "timms"), [("resnet50", "resnet50"), ("vit_small_patch16", "vit_small_patch16_224")], ids=["resnet", "vit"]
)
def test_timm_loads_our_files_as_they_are(tmp_path: Path, name: str, timms: str) -> None:
    config = BackboneConfig(name=name)
    ours, images = build_backbone(config, 224).eval(), torch.randn(1, 3, 224, 224)
    save_weights(ours, config, tmp_path / "weights.safetensors")
    theirs = timm.create_model(timms, num_classes=0).eval()
    theirs.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    with torch.inference_mode():  # float32: timm's attention is fused, ours is two products
        torch.testing.assert_close(ours(images), theirs(images), atol=2e-5, rtol=1e-5)


def test_the_papers_vit_has_timms_keys_and_shapes() -> None:
    with torch.device("meta"):
        ours = build_backbone(BackboneConfig(name="vit_base_patch16"), 224)
        theirs = timm.create_model("vit_base_patch16_224", num_classes=0)
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]
