"""The name of a run, which is also its folder's: `{method}-{variant}-s{seed}`, or `untrained-{backbone}-s{seed}`."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNTRAINED, CONTROL = "untrained", "control"  # method and variant of a backbone as its seed initialises it
PATTERN = re.compile(r"(?P<method>[^-]+)-(?P<variant>.+)-s(?P<seed>\d+)")


@dataclass(frozen=True)
class RunName:
    """Method, variant and seed of a run; an untrained control is told apart by its backbone instead.

    Attributes:
        method: the method's name, without a hyphen; "untrained" for a control.
        variant: baseline, hirl, or a variant of the study's own; "control" for a control.
        backbone: of a control; None for a trained run, whose configuration says it.
    """

    method: str
    variant: str
    seed: int = 0
    backbone: str | None = None

    def __post_init__(self) -> None:
        assert "-" not in self.method, self.method
        assert (self.method == UNTRAINED) == (self.variant == CONTROL) == (self.backbone is not None)

    @classmethod
    def control(cls, backbone: str, seed: int = 0) -> RunName:
        """Name the untrained control of a backbone."""
        return cls(UNTRAINED, CONTROL, seed, backbone)

    @classmethod
    def parse(cls, text: str) -> RunName:
        """Parse `mocov2-hirl-s0` or `untrained-resnet50-s0`.

        Raises:
            ValueError: the text is no run's name.
        """
        if (found := PATTERN.fullmatch(text)) is None:
            raise ValueError(f"{text!r} is no run name: write it as method-variant-sSEED, such as mocov2-hirl-s0")
        seed = int(found["seed"])
        if found["method"] == UNTRAINED:
            return cls.control(found["variant"], seed)
        return cls(found["method"], found["variant"], seed)

    @property
    def is_control(self) -> bool:
        """Whether the run is an untrained control."""
        return self.backbone is not None

    @property
    def arguments(self) -> list[str]:
        """The options of a `hirl` command that name the run."""
        kind = ["--variant", self.variant] if self.backbone is None else ["--backbone", self.backbone]
        return ["--method", self.method, *kind, "--seed", str(self.seed)]

    def __str__(self) -> str:
        return f"{self.method}-{self.backbone or self.variant}-s{self.seed}"
