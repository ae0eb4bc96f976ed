from __future__ import annotations

import pytest

from hirl.cli.parser import build_parser
from hirl.config import RunName

NAMES = {
    "mocov2-baseline-s0": RunName("mocov2", "baseline", 0),
    "swav_800-hirl-s12": RunName("swav_800", "hirl", 12),
    "dino-hirl-invariant-s3": RunName("dino", "hirl-invariant", 3),
    "untrained-resnet50-s0": RunName.control("resnet50"),
    "untrained-vit_base_patch16-s1": RunName.control("vit_base_patch16", 1),
}


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_a_name_is_parsed_and_written_back(text: str, name: RunName) -> None:
    assert RunName.parse(text) == name
    assert str(name) == text


def test_a_control_has_a_method_and_a_variant_and_keeps_its_backbone_apart() -> None:
    control = RunName.parse("untrained-resnet8-s4")
    assert (control.method, control.variant, control.seed, control.backbone) == ("untrained", "control", 4, "resnet8")
    assert control.is_control
    assert not RunName("dino", "hirl").is_control


@pytest.mark.parametrize(
    "text", ["", "mocov2", "mocov2-hirl", "mocov2-hirl-0", "mocov2-s0", "mocov2-hirl-s", "-hirl-s0"]
)
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="is no run name") as refused:
        RunName.parse(text)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES.values(), ids=str)
def test_its_arguments_name_it_on_the_command_line(name: RunName) -> None:
    args = build_parser().parse_args(["evaluate", "knn", *name.arguments])
    assert (args.method, args.variant or "control", args.backbone, args.seed) == (
        name.method,
        name.variant,
        name.backbone,
        name.seed,
    )


@pytest.mark.parametrize("parts", [("mean-teacher", "hirl"), ("untrained", "hirl"), ("dino", "control")])
def test_a_name_that_could_not_be_parsed_is_not_made(parts: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        RunName(*parts)
