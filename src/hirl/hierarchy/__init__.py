"""What HIRL adds to a method: a semantic tree, made by hierarchical k-means, and the path loss over its paths."""

from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.path_loss import semantic_path_loss
from hirl.hierarchy.tree import SemanticTree

__all__ = ["SemanticTree", "hierarchical_kmeans", "semantic_path_loss"]
