from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from hirl.hierarchy import SemanticTree


def test_paths_follow_the_parents(make_tree):
    tree = make_tree((7, 4, 2), images=20, width=3)
    expected = [[k, tree.parents[0][k].item(), tree.parents[1][tree.parents[0][k]].item()] for k in range(7)]
    assert tree.paths.tolist() == expected
    assert torch.equal(tree.paths[tree.assignments[:, 0]], tree.assignments)
    assert (tree.num_levels, tree.num_clusters) == (3, (7, 4, 2))


def test_tree_is_the_same_after_saving_and_moving(make_tree, tmp_path):
    tree = make_tree((7, 4, 2), images=20, width=3)
    tree.save(tmp_path / "snapshots" / "epoch003.safetensors")
    for other in (SemanticTree.load(tmp_path / "snapshots" / "epoch003.safetensors"), tree.to("cpu")):
        mine, others = ((*t.centroids, *t.parents, t.assignments) for t in (tree, other))
        assert all(torch.equal(a, b) for a, b in zip(mine, others, strict=True))
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["epoch003.safetensors"]


def test_tree_cannot_be_changed(make_tree):
    with pytest.raises(AttributeError):
        make_tree((7, 4), images=20, width=3).assignments = torch.zeros(20, 2)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("parent tables", lambda t: t.update(parents=[])),
        (r"assignments are \[20, 1\]", lambda t: t.update(assignments=t["assignments"][:, :1])),
        (r"centroids of level 1 are \[4, 2\]", lambda t: t["centroids"][1].resize_(4, 2)),
        (r"parents of level 0 are \[6\]", lambda t: t.update(parents=[t["parents"][0][:6]])),
        ("int64", lambda t: t.update(assignments=t["assignments"].int())),
        ("level 1 are not finite unit vectors", lambda t: t["centroids"][1].mul_(2)),
        ("level 0 are not finite unit vectors", lambda t: t["centroids"][0][3].fill_(float("nan"))),
        ("level 0 run from .* to 7: ids must be 0 to 6", lambda t: t["assignments"][5].fill_(7)),
        ("parents of level 0 run from -1", lambda t: t["parents"][0][2].fill_(-1)),
        ("paths must nest", lambda t: t["assignments"][:, 1].add_(1).remainder_(4)),
    ],
)
def test_broken_tree_is_refused_in_one_line(make_tree, message, change):
    tree = make_tree((7, 4), images=20, width=3)
    parts = {"centroids": list(tree.centroids), "parents": list(tree.parents), "assignments": tree.assignments}
    change(parts)
    with pytest.raises(ValueError, match=message) as error:
        SemanticTree(**parts)
    assert "\n" not in str(error.value)


def test_unreadable_snapshots_are_refused_in_one_line(make_tree, tmp_path):
    tree = make_tree((7, 4), images=20, width=3)
    (tmp_path / "noise").write_bytes(b"noise")
    save_file({"images": torch.zeros(3)}, tmp_path / "other")
    save_file({"centroids.0": tree.centroids[0], "assignments": tree.assignments}, tmp_path / "broken")
    messages = {"missing": "No such file", "noise": "readable", "other": "tree", "broken": "assignments"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message) as error:
            SemanticTree.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
