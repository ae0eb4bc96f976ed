from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hirl.config import RunConfig
from hirl.data.images import load_images
from hirl.files import locked
from hirl.hierarchy import SemanticTree
from hirl.models.tokenizer import DiscreteVAE, save_tokenizer
from hirl.training import core
from hirl.training.checkpoint import load_checkpoint
from hirl.training.loop import Pretrainer, build_method, control_tree, feature_std, pretrain
from tests.conftest import METHODS
from tests.run_on_ranks import start

pytestmark = pytest.mark.usefixtures("one_thread")

CLOCKED = ["images_per_second", "seconds", "memory_mb"]


@pytest.fixture(scope="session")
def trained(
    tiny_run: Callable[..., Any], tiny_data: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The results of tiny runs trained in one go, each trained once."""
    done: dict[tuple[str, str], Path] = {}

    def train(method: str, variant: str) -> Path:
        if (method, variant) not in done:
            folder = tmp_path_factory.mktemp(f"{method}-{variant}")
            config = tiny_run(method, variant)
            pretrain(config, tiny_data, folder / "out", folder / "scratch", tokenizer=tiny_tokenizer)
            done[method, variant] = folder / "out"
        return done[method, variant]

    return train


def assert_same_results(one: Path, other: Path) -> None:
    """Weights, trees and history, bit by bit; clocks differ."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*.safetensors"))
    for name in names:
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    histories = (pd.read_csv(folder / "history.csv").drop(columns=CLOCKED) for folder in (one, other))
    pd.testing.assert_frame_equal(*histories, check_exact=True)


# --- what a run leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_under_hirl(trained, method: str) -> None:
    history = pd.read_csv(trained(method, "hirl") / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["path_loss"].isna().tolist() == [True, False, False]  # the first snapshot opens epoch 1
    loss = history["image_loss"] + history["path_loss"].fillna(0)
    # means of float32 losses, added before or after
    assert history["loss"].tolist() == pytest.approx(loss.tolist(), rel=1e-6)
    assert (history[["feature_std", "learning_rate", *CLOCKED]] > 0).all(axis=None)


def test_results_are_whole(trained, tiny_run) -> None:
    out, config = trained("mocov2", "hirl"), tiny_run("mocov2", "hirl")
    snapshots = sorted(path.name for path in (out / "snapshots").iterdir())
    assert snapshots == ["epoch0001.safetensors", "epoch0002.safetensors"]
    assert (out / "tree.safetensors").read_bytes() == (out / "snapshots" / snapshots[-1]).read_bytes()
    assert SemanticTree.load(out / "tree.safetensors").num_clusters == (6, 3, 2)
    stored = json.loads((out / "config.json").read_text())
    assert stored.pop("hash") == config.pretraining_hash
    assert stored == config.model_dump(mode="json")
    kinds = [json.loads(line)["kind"] for line in (out / "record.jsonl").read_text().splitlines()]
    assert kinds == ["params", "metrics", "snapshot", "metrics", "snapshot", "metrics", "end"]
    weights = build_method(config).backbone.state_dict()
    assert load_file(out / "weights.safetensors").keys() == weights.keys()


def test_a_baseline_has_no_tree_and_no_path_loss(trained) -> None:
    out = trained("simsiam", "baseline")
    assert not list(out.rglob("snapshots")) + list(out.rglob("tree*"))
    history = pd.read_csv(out / "history.csv")
    assert history["path_loss"].isna().all()
    assert (history["loss"] == history["image_loss"]).all()


def test_variants_start_from_the_same_network_and_agree_until_the_first_snapshot(trained, tiny_run) -> None:
    plain, wrapped = (build_method(tiny_run("simsiam", variant)) for variant in ("baseline", "hirl"))
    states = plain.state_dict(), wrapped.method.state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    first = [pd.read_csv(trained("simsiam", variant) / "history.csv")["loss"][0] for variant in ("baseline", "hirl")]
    assert first[0] == first[1]


@pytest.mark.parametrize(
    "hierarchy",
    [
        {"features": "invariant", "views": 3},
        {"encode": "steps", "start_epoch": 0},  # the second tree, after the resume, comes from the first epoch's steps
        {"encode": "steps", "start_epoch": 0, "features": "invariant", "views": 3},
    ],
)
def test_trees_beyond_the_paper_are_bit_equal_after_a_resume(
    tiny_run, tiny_data, tmp_path, stopped_after_one_epoch, hierarchy
):
    config = tiny_run("simsiam", "hirl", hierarchy=hierarchy)
    pretrain(config, tiny_data, tmp_path / "once", tmp_path / "scratch1")
    with stopped_after_one_epoch():
        pretrain(config, tiny_data, tmp_path / "twice", tmp_path / "scratch2")
    pretrain(config, tiny_data, tmp_path / "twice", tmp_path / "scratch2")
    assert_same_results(tmp_path / "once", tmp_path / "twice")


def control_run(config: RunConfig, tree: str) -> RunConfig:
    """Return a run with a tree that only control studies may name."""
    return config.model_copy(update={"hierarchy": config.hierarchy.model_copy(update={"tree": tree})})


@pytest.mark.parametrize("tree", ["random", "classes"])
def test_a_control_run_keeps_the_clusters_that_it_was_given(tiny_run, tiny_data, tmp_path, tree: str) -> None:
    levels = load_images(tiny_data, "train").labels.shape[1]
    config = control_run(tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3, 2][-levels:]}), tree)
    pretrain(config, tiny_data, tmp_path / "out", tmp_path / "scratch")
    trees = [SemanticTree.load(path) for path in sorted((tmp_path / "out" / "snapshots").iterdir())]
    given = control_tree(config, load_images(tiny_data, "train").labels)
    assert all(torch.equal(tree.assignments, given.assignments) for tree in trees)
    assert not torch.equal(trees[0].centroids[0], trees[-1].centroids[0])


def test_classes_of_another_number_of_levels_are_refused(tiny_run) -> None:
    config = control_run(tiny_run("simsiam", "hirl", hierarchy={"num_clusters": [6, 3, 2]}), "classes")
    with pytest.raises(ValueError, match="of which the data has 1 levels"):
        control_tree(config, torch.zeros(9, 1, dtype=torch.int64))


# --- going on after a kill --------------------------------------------------------------------------------------------


def pretrain_and_die(number: int, *arguments: Any) -> None:
    """Train, and be killed in step `number`."""
    step = Pretrainer.step

    def last(self: Pretrainer, batch: Any, now: int) -> Any:
        if now == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, now)

    Pretrainer.step = last
    pretrain(*arguments)


@pytest.mark.parametrize(("method", "step"), [("ibot", 5), ("mocov2", 9), ("beit", 11)])  # of three epochs of four
def test_killed_and_resumed_is_bit_equal_to_one_go(
    trained, tiny_run, tiny_data, tiny_tokenizer, tmp_path, method: str, step: int
) -> None:
    arguments = (tiny_run(method, "hirl"), tiny_data, tmp_path / "out", tmp_path / "scratch", None, (), tiny_tokenizer)
    process = start(pretrain_and_die, step, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list((tmp_path / "out").iterdir())
    pretrain(*arguments)
    assert_same_results(tmp_path / "out", trained(method, "hirl"))


def test_a_damaged_checkpoint_costs_its_epoch_only(trained, tiny_run, tiny_data, tmp_path, monkeypatch) -> None:
    config, folders = tiny_run("swav", "hirl"), (tmp_path / "out", tmp_path / "scratch")
    pretrain(config, tiny_data, *folders)
    newest = tmp_path / "scratch" / "checkpoint00003.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(config, tiny_data, *folders)
    assert_same_results(tmp_path / "out", trained("swav", "hirl"))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / "record.jsonl").read_text().splitlines()]
    assert kinds == ["params", "metrics", "snapshot", "metrics", "snapshot", "metrics", "end"]


def test_a_finished_run_is_only_written_out_again(trained, tiny_run, tiny_data, tmp_path, monkeypatch) -> None:
    config, scratch = tiny_run("simsiam", "hirl"), tmp_path / "scratch"
    pretrain(config, tiny_data, tmp_path / "out", scratch)
    monkeypatch.setattr(core.Trainer, "steps", lambda *_: pytest.fail("there is nothing left to train"))
    pretrain(config, tiny_data, tmp_path / "again", scratch)
    assert_same_results(tmp_path / "again", trained("simsiam", "hirl"))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_second_trainer_is_refused(tiny_run, tiny_data, tmp_path) -> None:
    with locked(tmp_path / "scratch"), pytest.raises(ValueError, match="is in use by another process"):
        pretrain(tiny_run("simsiam"), tiny_data, tmp_path / "out", tmp_path / "scratch")


def test_another_configuration_is_refused(tiny_run, tiny_data, tmp_path) -> None:
    folders = tiny_data, tmp_path / "out", tmp_path / "scratch"
    pretrain(tiny_run("simsiam", training={"epochs": 1}), *folders)
    before = sorted((tmp_path / "scratch").iterdir())
    with pytest.raises(ValueError, match="another configuration, other data or another tokenizer: remove it"):
        pretrain(tiny_run("simsiam", training={"epochs": 2}), *folders)
    assert sorted((tmp_path / "scratch").iterdir()) == before


def test_another_tokenizer_is_refused(tiny_run, tiny_data, tiny_tokenizer, tmp_path) -> None:
    config, folders = tiny_run("beit", training={"epochs": 1}), (tiny_data, tmp_path / "out", tmp_path / "scratch")
    pretrain(config, *folders, tokenizer=tiny_tokenizer)
    save_tokenizer(DiscreteVAE(vocabulary=16, width=8, patch_size=4), tmp_path / "another.safetensors")
    with pytest.raises(ValueError, match="another configuration, other data or another tokenizer: remove it"):
        pretrain(config, *folders, tokenizer=tmp_path / "another.safetensors")
    state = load_checkpoint(tmp_path / "scratch")["network"]
    assert not [key for key in state if "tokenizer" in key]


def test_methods_that_compare_views_need_two(tiny_run) -> None:
    with pytest.raises(ValueError, match=r"^views\.global_crops is 1, but mocov2 compares two views: set it to 2$"):
        build_method(tiny_run("mocov2", views={"global_crops": 1}))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tiny_run, tiny_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(core, "learning_rate", lambda _, number, per_epoch: 0.01 if number < per_epoch else 1e38)
    with pytest.raises(
        ValueError, match=r"^simsiam-baseline-s0: the loss is not finite in epoch 2, by step 4;"
    ) as caught:
        pretrain(tiny_run("simsiam"), tiny_data, tmp_path / "out", tmp_path / "scratch")
    assert "\n" not in str(caught.value)
    assert len(load_checkpoint(tmp_path / "scratch")["history"]) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hierarchy": {"num_clusters": [65, 3]}}, r"hierarchy\.num_clusters 65 is more than the 64 training images"),
        ({"training": {"batch_size": 65}}, r"training\.batch_size is 65, but there are 64 images"),
    ],
)
def test_more_than_the_images_give_is_refused(tiny_run, tiny_data, tmp_path, overrides, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(tiny_run("simsiam", "hirl", **overrides), tiny_data, tmp_path / "out", tmp_path / "scratch")


def test_results_that_cannot_be_written_are_refused_before_training(tiny_run, tiny_data, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*file/out"):
        pretrain(tiny_run("simsiam"), tiny_data, tmp_path / "file" / "out", tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_collapse_metric_is_one_for_spread_and_zero_for_collapsed_features() -> None:
    torch.manual_seed(0)
    assert feature_std(torch.ones(64, 16)) == 0
    assert feature_std(torch.randn(4096, 16)).item() == pytest.approx(1, abs=0.02)  # of 4096 random directions
