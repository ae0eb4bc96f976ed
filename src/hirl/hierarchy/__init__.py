"""What HIRL adds to a method: a tree of clusters of the training images, and a loss over its semantic paths."""

from hirl.hierarchy.kmeans import hierarchical_kmeans
from hirl.hierarchy.path_loss import semantic_path_loss
from hirl.hierarchy.tree import SemanticTree

__all__ = ["SemanticTree", "hierarchical_kmeans", "semantic_path_loss"]
