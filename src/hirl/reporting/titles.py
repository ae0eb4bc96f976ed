"""How tables and figures name methods, backbones, variants and metrics."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from hirl.config.run_name import UNTRAINED

METHOD_TITLES = {
    "mocov2": "MoCo v2",
    "simsiam": "SimSiam",
    "swav": "SwAV",
    "swav_800": "SwAV (800 epochs)",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "beit": "BEiT",
    UNTRAINED: "Untrained",
}
VIT = re.compile(r"vit(?P<stem>c?)_(?P<size>[a-z]+)(_patch(?P<patch>\d+))?")
VIT_SIZES = {"small": "S", "base": "B", "large": "L"}  # as the papers abbreviate them; other sizes keep their name
SUPERSCRIPT = re.compile(r"\^(\w+)")  # in a metric's title, such as AP^box


def method_title(method: str) -> str:
    """Return the method's name as its paper writes it; a user's own method keeps its name."""
    return METHOD_TITLES.get(method, method)


def variant_title(variant: str) -> str:
    """Return HIRL for `hirl` and HIRL-flat for `hirl-flat`; other variants keep their name."""
    return f"HIRL{variant.removeprefix('hirl')}" if variant.split("-")[0] == "hirl" else variant


def backbone_title(name: str) -> str:
    """Return ResNet-50 for `resnet50`, ViT-B/16 for `vit_base_patch16`; other names are kept."""
    if (vit := VIT.fullmatch(name)) is not None:
        title = f"{'ViT-C' if vit['stem'] else 'ViT'}-{VIT_SIZES.get(vit['size'], vit['size'])}"
        return f"{title}/{vit['patch']}" if vit["patch"] else title
    return name.replace("resnet", "ResNet-") if name.startswith("resnet") else name


def plain(title: str) -> str:
    """Return a metric's title for the terminal: `AP box`."""
    return SUPERSCRIPT.sub(r" \1", title)


def html(title: str) -> Markup:
    """Return a metric's title for HTML and Markdown: `AP<sup>box</sup>`."""
    return Markup(SUPERSCRIPT.sub(r"<sup>\1</sup>", str(escape(title))))


def mathtext(title: str) -> str:
    """Return a metric's title for a bold heading in matplotlib."""
    return SUPERSCRIPT.sub(r"$^\\mathbf{\1}$", title)
