"""Open a trained backbone by the file that holds it, or by its name: ours, the authors' published ones, or timm's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError

import timm
from safetensors import SafetensorError, safe_open

from hirl.config import CONFIG_ROOT, BackboneConfig, load_study
from hirl.files import read_json, unpack_metadata
from hirl.models.backbones import TIMM, Backbone, build_backbone, build_timm
from hirl.models.weights import import_weights, load_weights
from hirl.models.zoo import fetch_weights, published_weights, recognise

DOWNLOADS = Path("~/.cache/hirl").expanduser()
OURS = CONFIG_ROOT.parent / "weights"  # of a clone, after dvc pull: STUDY/RUN/weights.safetensors
SMALL_IMAGES = ("resnet8", "resnet18_small_images", "vit_small_patch4", "vitc_narrow_patch4", "vit_narrow_patch8")
LARGEST = 224  # pixels a side; networks that were trained on larger images take this size too, or their own


@dataclass(frozen=True)
class Pretrained:
    """A trained backbone.

    Attributes:
        config: what builds the network again.
        image_size: side of the images that it takes, in pixels.
        origin: where the weights come from, in words.
    """

    backbone: Backbone
    config: BackboneConfig
    image_size: int
    origin: str


def open_pretrained(weights: str | Path, network: str | None = None, image_size: int | None = None) -> Pretrained:
    """Open trained weights.

    Args:
        weights: a file of `hirl pretrain` or of DVC (weights.safetensors), a checkpoint of the authors, or a checkpoint
            of a network of timm's; or a name: a run in weights/ (mocov2-hirl-s0), published weights (mocov2-hirl), or a
            network of timm's with its weights (resnet50.a1_in1k), which are downloaded.
        network: timm's name of the network in a file; default: as the file or its name says.
        image_size: side of the images in pixels; default: as the weights were trained.

    Raises:
        ValueError: there is no such file or name, the network is not known, the file does not fit it, or a download
            failed.
    """
    path = Path(weights).expanduser()
    if path.is_dir() and (path / "weights.safetensors").is_file():
        path = path / "weights.safetensors"
    if path.is_file():
        return _open_file(path, network, image_size)
    name = str(weights)
    if run := sorted(OURS.glob(f"*/{name}/weights.safetensors")) if re.fullmatch(r"[\w.-]+", name) else []:
        return _open_ours(run[0], image_size)
    if name in published_weights():
        return _open_published(fetch_weights(name, DOWNLOADS), name, image_size)
    if timm.is_model(name):
        return _download_timm(name, image_size)
    runs = sorted(path.parent.name for path in OURS.glob("*/*/weights.safetensors"))
    known = ", ".join([*runs[:3], *list(published_weights())[:2], "resnet50.a1_in1k"])
    raise ValueError(f"{weights} is no file and no known name: give a file of weights, or a name such as {known}")


def _open_file(path: Path, network: str | None, image_size: int | None) -> Pretrained:
    if network is None and "backbone" in _metadata(path):
        return _open_ours(path, image_size)
    if network is None and (known := recognise(path)) is not None:
        return _open_published(path, known.name, image_size)
    return _open_timm_file(path, network or _timm_name(path), image_size)


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; none of any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return unpack_metadata(file.metadata())
    except (OSError, SafetensorError):
        return {}


# --- ours and the authors' --------------------------------------------------------------------------------------------


def _open_ours(path: Path, image_size: int | None) -> Pretrained:
    """Open a weights file of a run; config.json beside it knows the image size, if it is there."""
    metadata = _metadata(path)
    beside = path.with_name("config.json")
    run: dict[str, Any] = read_json(beside) if beside.is_file() else {}
    name = metadata["backbone"]
    config = BackboneConfig.model_validate(run["backbone"]) if run else BackboneConfig(name=name, **_traits(path))
    own = 32 if name in SMALL_IMAGES else LARGEST
    size = image_size or (run["views"]["global_size"] if run else own)
    backbone = build_backbone(config, size)
    load_weights(backbone, config, path)
    maker = "-".join(metadata[key] for key in ("method", "variant") if key in metadata)
    return Pretrained(backbone, config, size, f"{path} ({config.name}{', ' if maker else ''}{maker})")


def _traits(path: Path) -> dict[str, Any]:
    """Return what the names of a file's tensors say about a ViT."""
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
    traits: dict[str, Any] = {}
    if "position_bias" in keys:
        traits["position_embedding"] = "relative"
    if any(key.endswith("ls1.gamma") for key in keys):
        traits["layer_scale"] = 0.1
    return traits


def _open_published(path: Path, name: str, image_size: int | None) -> Pretrained:
    """Open a checkpoint of the paper's authors."""
    known = published_weights()[name]
    config = load_study("imagenet").resolve(known.method, known.variant)
    size = image_size or config.views.global_size
    with TemporaryDirectory() as folder:
        converted = Path(folder) / "weights.safetensors"
        import_weights(path, converted, config)
        backbone = build_backbone(config.backbone, size)
        load_weights(backbone, config.backbone, converted)
    return Pretrained(backbone, config.backbone, size, f"{path.name} ({config.backbone.name}, {name}, the authors')")


# --- timm's -----------------------------------------------------------------------------------------------------------


def _download_timm(name: str, image_size: int | None) -> Pretrained:
    size = image_size or _timm_size(name)
    try:
        backbone = build_timm(name, size, pretrained=True)
    except (OSError, URLError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"the weights of timm's {name} cannot be fetched ({reason}): give their file with --weights FILE"
        ) from error
    return Pretrained(backbone, BackboneConfig(name=TIMM + name), size, f"timm's {name}")


def _open_timm_file(path: Path, name: str, image_size: int | None) -> Pretrained:
    size = image_size or _timm_size(name)
    overlay = {"file": str(path), "custom_load": False}
    try:
        backbone = build_timm(name, size, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, OSError, SafetensorError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path} does not fit timm's {name} ({reason}): name its network with --network, or give another file"
        ) from error
    return Pretrained(backbone, BackboneConfig(name=TIMM + name), size, f"{path} (timm's {name})")


def _timm_size(name: str) -> int:
    """Return the side of the images that a network of timm's was trained on, but at most LARGEST where it allows."""
    cfg = timm.get_pretrained_cfg(name)
    size = cfg.input_size[-1] if cfg else LARGEST
    return size if cfg and cfg.fixed_input_size and not name.startswith("vit_") else min(size, LARGEST)


def _timm_name(path: Path) -> str:
    """Return timm's name of the network in a file, from config.json beside it, as on the Hugging Face hub, or its name.

    Raises:
        ValueError: neither says it.
    """
    beside = path.with_name("config.json")
    if beside.is_file():
        try:
            if timm.is_model(found := json.loads(beside.read_text()).get("architecture", "")):
                return found
        except (json.JSONDecodeError, AttributeError):
            pass
    stem = path.stem.replace("-", ".")
    candidates = [name for name in timm.list_models() if re.match(rf"{re.escape(name)}([._]|$)", stem)]
    if not candidates:
        raise ValueError(
            f"{path} does not say which network it holds: name it as timm does with --network, such as resnet50"
        )
    return max(candidates, key=len)
