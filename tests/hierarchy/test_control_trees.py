import torch

from hirl.hierarchy.control_trees import class_tree, random_tree

LABELS = torch.tensor([[0, 0], [1, 0], [2, 1], [3, 1]]).repeat(25, 1)  # four classes of two kinds


def test_a_random_tree_is_nested_even_and_fixed_by_its_seed() -> None:
    tree = random_tree(3000, (12, 4, 2), seed=3)
    assert tree.num_clusters == (12, 4, 2)
    assert torch.bincount(tree.assignments[:, 0], minlength=12).min() > 180  # 250 expected, 5 deviations below
    assert [torch.bincount(parents).tolist() for parents in tree.parents] == [[3] * 4, [2] * 2]
    assert torch.equal(tree.assignments, random_tree(3000, (12, 4, 2), seed=3).assignments)
    assert not torch.equal(tree.assignments, random_tree(3000, (12, 4, 2), seed=4).assignments)


def test_the_tree_of_the_classes_has_their_labels_and_their_parents() -> None:
    tree = class_tree(LABELS, noise=0.0, seed=0)
    assert torch.equal(tree.assignments, LABELS)
    assert [parents.tolist() for parents in tree.parents] == [[0, 0, 1, 1]]


def test_noise_permutes_whole_paths_of_a_part_of_the_images() -> None:
    tree = class_tree(LABELS, noise=0.4, seed=0)
    moved = (tree.assignments != LABELS).any(dim=1).sum().item()
    assert 20 <= moved <= 40  # a quarter of the 40 permuted ones keeps its class by chance
    assert torch.equal(torch.bincount(tree.assignments[:, 0]), torch.bincount(LABELS[:, 0]))


def test_centroids_follow_the_embeddings() -> None:
    embeddings = torch.nn.functional.one_hot(LABELS[:, 0]).float()
    tree = class_tree(LABELS, noise=0.0, seed=0).in_space_of(embeddings)
    assert torch.equal(tree.centroids[0], torch.eye(4))
    assert torch.allclose(tree.centroids[1], torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]) / 2**0.5)
