from __future__ import annotations

import pytest

from hirl.reporting.markup import escape
from hirl.reporting.titles import backbone_title, html, mathtext, method_title, plain, variant_title


def test_methods_have_the_names_of_their_papers_and_your_own_keeps_its_name() -> None:
    names = ("mocov2", "swav_800", "untrained", "my_method")
    assert [method_title(name) for name in names] == ["MoCo v2", "SwAV (800 epochs)", "Untrained", "my_method"]
    assert [variant_title(name) for name in ("hirl", "baseline")] == ["HIRL", "baseline"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("resnet50", "ResNet-50"),
        ("vit_base_patch16", "ViT-B/16"),
        ("vitc_small_patch16", "ViT-C-S/16"),
        ("vitc_narrow_patch4", "ViT-C-narrow/4"),
        ("my_backbone", "my_backbone"),
    ],
)
def test_backbones_are_named_by_family_and_size(name: str, title: str) -> None:
    assert backbone_title(name) == title


def test_superscripts_are_set_as_each_format_can():
    title = "AP50^box"
    assert [plain(title), html(title)] == ["AP50 box", "AP50<sup>box</sup>"]
    assert [escape(title), mathtext(title)] == [r"AP50$^{\mathrm{box}}$", r"AP50$^\mathbf{box}$"]


def test_html_titles_are_escaped() -> None:
    assert html("a < b^c") == "a &lt; b<sup>c</sup>"
