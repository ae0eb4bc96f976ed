"""One training on one rank and on two: the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hirl.config import RunConfig
from hirl.hierarchy import SemanticTree
from hirl.training.loop import pretrain
from tests.conftest import METHODS
from tests.run_on_ranks import on_two_ranks

SETTINGS = {
    "views": {"local_crops": 1},
    "backbone": {"drop_path": 0.0},
}  # two ranks drop other paths than one


def train_all(runs: list[tuple[RunConfig, Path | None]], data: Path, home: Path) -> None:
    for config, tokenizer in runs:
        pretrain(config, data, home / config.name, home / "scratch" / config.name, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_run, tiny_data, tiny_tokenizer) -> tuple[Path, Path]:
    """The folders of all runs, trained on one rank and on two: an epoch as the baselines do, two with trees."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    runs = [
        (config, tiny_tokenizer if config.uses_tokenizer else None)
        for config in (tiny_run(method, "hirl", **SETTINGS) for method in METHODS)
    ]
    train_all(runs, tiny_data, one)
    on_two_ranks(train_all, runs, tiny_data, two)
    return one, two


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_have_the_losses_of_one(trained, method):
    one, two = (pd.read_csv(home / f"{method}-hirl-s0" / "history.csv") for home in trained)
    for name in ("loss", "image_loss", "path_loss"):
        # sums over a batch come in two parts, which is a rounding; where it crosses a ReLU's kink, later losses move by
        # 1e-4, as they do on one rank whose first weights are multiplied by 1 - 1e-7
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_find_the_trees_of_one(trained, method):
    one, two = (sorted((home / f"{method}-hirl-s0" / "snapshots").iterdir()) for home in trained)
    assert [path.name for path in one] == [path.name for path in two]
    for tree, other in zip(map(SemanticTree.load, one), map(SemanticTree.load, two), strict=True):
        assert torch.equal(tree.assignments, other.assignments)


def test_two_ranks_find_the_trees_of_one_in_their_steps(tiny_run, tiny_data, tmp_path):
    """The images of a rank's shard are embedded by both; batches of 24 leave 16 of 64 images out of each epoch."""
    hierarchy = {"encode": "steps", "start_epoch": 0}
    training = {"epochs": 2, "batch_size": 24}
    runs = [(tiny_run("mocov2", "hirl", hierarchy=hierarchy, training=training, **SETTINGS), None)]
    train_all(runs, tiny_data, tmp_path / "one")
    on_two_ranks(train_all, runs, tiny_data, tmp_path / "two")
    trees = [SemanticTree.load(tmp_path / home / "mocov2-hirl-s0" / "tree.safetensors") for home in ("one", "two")]
    assert torch.equal(trees[0].assignments, trees[1].assignments)


def test_a_batch_that_ranks_cannot_share_is_refused(tiny_run, tiny_data, tmp_path):
    config = tiny_run("simsiam", training={"batch_size": 15})
    with pytest.raises(Exception, match=r"training\.batch_size 15 is not a multiple of the 2 ranks"):
        on_two_ranks(train_all, [(config, None)], tiny_data, tmp_path)
    config = tiny_run("mocov2", model={"batch_norm_groups": 3})
    with pytest.raises(Exception, match=r"model\.batch_norm_groups 3 is not a multiple of the 2 ranks"):
        on_two_ranks(train_all, [(config, None)], tiny_data, tmp_path)
