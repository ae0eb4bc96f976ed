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
BACKBONE_TITLES = {"resnet": "ResNet-", "vit_": "ViT-", "vitc_": "ViT-C-"}
VARIANT_TITLES = {"hirl": "HIRL"}
SUPERSCRIPT = re.compile(r"\^(\w+)")  # in a metric's title, such as AP^box


def method_title(method: str) -> str:
    """Return the method's name as its paper writes it; a user's own method keeps its name."""
    return METHOD_TITLES.get(method, method)


def variant_title(variant: str) -> str:
    """Return HIRL for `hirl`; other variants keep their name."""
    return VARIANT_TITLES.get(variant, variant)


def backbone_title(name: str) -> str:
    """Return ResNet-50 for `resnet50`, ViT-base patch16 for `vit_base_patch16`; other names are kept."""
    for prefix, title in BACKBONE_TITLES.items():
        if name.startswith(prefix):
            return title + name.removeprefix(prefix).replace("_", " ")
    return name


def plain(title: str) -> str:
    """Return a metric's title for the terminal: `AP box`."""
    return SUPERSCRIPT.sub(r" \1", title)


def html(title: str) -> Markup:
    """Return a metric's title for HTML and Markdown: `AP<sup>box</sup>`."""
    return Markup(SUPERSCRIPT.sub(r"<sup>\1</sup>", str(escape(title))))


def mathtext(title: str) -> str:
    """Return a metric's title for a bold heading in matplotlib."""
    return SUPERSCRIPT.sub(r"$^\\mathbf{\1}$", title)
