from __future__ import annotations

import numpy as np
import pytest

from hirl.config import CONFIG_ROOT
from hirl.data.class_tree import ClassTree, folder_lineages, read_class_tree


def test_labels_of_every_level_follow_from_the_finest():
    tree = ClassTree.of([("cat", "animal"), ("dog", "animal"), ("ship", "vehicle")], ["class", "realm"])
    assert tree.class_names == [["cat", "dog", "ship"], ["animal", "vehicle"]]
    assert tree.parents == [[0, 0, 1]]
    assert tree.labels([2, 0, 1]).tolist() == [[2, 1], [0, 0], [1, 0]]


def test_a_folder_name_that_repeats_in_its_level_becomes_a_path():
    branches = [("animal", "other"), ("vehicle", "other"), ("vehicle", "ship")]
    assert folder_lineages(branches) == [("animal/other", "animal"), ("vehicle/other", "vehicle"), ("ship", "vehicle")]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_shipped_trees_are_read(name):
    path = f"config/trees/{name}.csv"
    classes = [line.split(",")[0] for line in (CONFIG_ROOT.parent / path).read_text().splitlines()[1:]]
    tree = read_class_tree(path, classes)
    assert [len(names) for names in tree.class_names] == {"cifar10": [10, 4, 2], "cifar100": [100, 20]}[name]
    assert all(np.bincount(parents).min() >= 2 for parents in tree.parents)
    assert tree.levels[0] == "class"
    if name == "cifar100":
        assert np.bincount(tree.parents[0]).tolist() == [5] * 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,kind\ncat,animal\ndog,animal\nship,vehicle\n", "class 'ship' is not in the data set"),
        ("class,kind\ncat,animal\n", "the data set's class 'dog' is not in it"),
        ("class,kind\ncat,animal\ncat,animal\n", "class 'cat' has two rows"),
        ("class,kind,realm\ncat,pet,a\ndog,pet,b\n", "'pet' has the parents 'a' and 'b'"),
        ("class,kind\ncat\n", "line 2: 'cat' must be 2 names"),
        ("name,parent\ncat,animal\n", "write class, then a name"),
        ("class,kind,kind\ncat,pet,animal\ndog,pet,animal\n", "write class, then a name"),
        ("", "write class, then a name"),
    ],
)
def test_a_wrong_class_tree_is_named(tmp_path, content, message):
    file = tmp_path / "tree.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=r".") as caught:
        read_class_tree(str(file), ["cat", "dog"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_class_tree_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv is missing: correct the path"):
        read_class_tree(str(tmp_path / "none.csv"), ["cat", "dog"])


def test_images_without_classes_have_a_tree_without_levels():
    tree = ClassTree.of([()])
    assert (tree.levels, tree.class_names, tree.parents) == ([], [], [])
    assert tree.labels([0, 0, 0]).shape == (3, 0)
