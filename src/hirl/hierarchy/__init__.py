"""What HIRL adds to a method: a semantic tree, made by hierarchical k-means, and the path loss over its paths.

`HIRL`, the wrapper around any method, is imported when it is first used: it needs more than the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.path_loss import semantic_path_loss
from hirl.hierarchy.tree import SemanticTree

if TYPE_CHECKING:
    from hirl.hierarchy.wrapper import HIRL

__all__ = ["HIRL", "SemanticTree", "hierarchical_kmeans", "semantic_path_loss"]


def __getattr__(name: str) -> Any:
    if name == "HIRL":
        from hirl.hierarchy.wrapper import HIRL

        return HIRL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
