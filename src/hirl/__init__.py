"""HIRL: hierarchical image representation learning (https://arxiv.org/abs/2205.13159), reproduced.

    import hirl

    model = hirl.HIRL(method="simsiam", epochs=20).fit("photos")
    model.transform("photos")           # features, [N, C]
    model.predict_path("new.jpg")       # the path through the semantic tree, finest cluster first
    model.save("photos.safetensors")
    model = hirl.load("photos.safetensors")

Everything public is here; it is imported when it is first used, so that `import hirl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hirl.estimator.model import HIRL, load
    from hirl.hierarchy import SemanticTree

__all__ = ["HIRL", "SemanticTree", "__version__", "load"]

_HOMES = {"HIRL": "hirl.estimator.model", "load": "hirl.estimator.model", "SemanticTree": "hirl.hierarchy"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hirl")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hirl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
