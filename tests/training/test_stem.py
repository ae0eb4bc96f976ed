"""A run that forks from its baseline has the bits of one that trained its first epochs itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hirl.config import RunConfig
from hirl.files import read_json, write_json
from hirl.training import core
from hirl.training.checkpoint import load_checkpoint
from hirl.training.loop import pretrain
from hirl.training.stem import find_stem, stem_path
from tests.conftest import METHODS
from tests.run_on_ranks import on_two_ranks

pytestmark = pytest.mark.usefixtures("one_thread")

START = 2  # of three epochs: the optimiser's state is that of several steps
CLOCKED = ["images_per_second", "seconds", "memory_mb"]


def train_pair(pair: tuple[RunConfig, RunConfig], data: Path, home: Path, tokenizer: Path | None = None) -> None:
    """Train a baseline, its HIRL run from its stem, and the HIRL run from the first epoch."""
    baseline, hirl = pair
    stems = home / "stems"
    pretrain(baseline, data, home / "out0", home / "scratch0", tokenizer=tokenizer, stems=stems, kept_epochs=[START])
    pretrain(hirl, data, home / "forked", home / "scratch1", tokenizer=tokenizer, stems=stems)
    pretrain(hirl, data, home / "whole", home / "scratch2", tokenizer=tokenizer)


def train_pairs(pairs: list[tuple[RunConfig, RunConfig]], data: Path, home: Path) -> None:
    for pair in pairs:
        train_pair(pair, data, home / pair[0].method)


@pytest.fixture(scope="session")
def pair_of(tiny_run: Callable[..., Any]) -> Callable[..., tuple[RunConfig, RunConfig]]:
    """A function that returns the configurations of a baseline and its HIRL run."""

    def pair(method: str, hierarchy: dict[str, Any] | None = None, **overrides: Any) -> tuple[RunConfig, RunConfig]:
        settings = overrides | {"hierarchy": {"start_epoch": START} | (hierarchy or {})}
        return tiny_run(method, "baseline", **settings), tiny_run(method, "hirl", **settings)

    return pair


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Two states, bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, values in enumerate(zip(one, other, strict=True)):
            assert_equal(*values, f"{where}.{number}")
    else:
        assert one == other, where


def assert_same_run(home: Path) -> None:
    """Weights, trees, history, and in the last checkpoint the whole network and the optimiser; clocks differ."""
    forked, whole = (load_checkpoint(home / scratch) for scratch in ("scratch1", "scratch2"))
    for part in ("network", "optimizer", "fingerprint"):
        assert_equal(forked[part], whole[part], part)
    names = sorted(str(path.relative_to(home / "whole")) for path in (home / "whole").rglob("*.safetensors"))
    assert names == sorted(str(path.relative_to(home / "forked")) for path in (home / "forked").rglob("*.safetensors"))
    assert {"weights.safetensors", "tree.safetensors"} <= set(names)
    for name in names:
        assert_equal(load_file(home / "forked" / name), load_file(home / "whole" / name), name)
    histories = (pd.read_csv(home / run / "history.csv").drop(columns=CLOCKED) for run in ("forked", "whole"))
    pd.testing.assert_frame_equal(*histories, check_exact=True)


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_run_has_the_bits_of_a_whole_one(pair_of, tiny_data, tiny_tokenizer, tmp_path, method: str) -> None:
    pair = pair_of(method)
    train_pair(pair, tiny_data, tmp_path, tiny_tokenizer if pair[0].uses_tokenizer else None)
    assert_same_run(tmp_path)


@pytest.mark.parametrize("method", ["mocov2", "dino"])
def test_so_it_has_in_bf16(pair_of, tiny_data, tmp_path, method: str) -> None:
    train_pair(pair_of(method, training={"precision": "bf16"}), tiny_data, tmp_path)
    assert_same_run(tmp_path)


def test_so_it_has_on_two_ranks(pair_of, tiny_data, tmp_path) -> None:
    """SGD and its own rate, LARS, AdamW with clipped gradients and groups without decay."""
    methods = ("simsiam", "swav", "dino")
    on_two_ranks(train_pairs, [pair_of(method) for method in methods], tiny_data, tmp_path)
    for method in methods:
        assert_same_run(tmp_path / method)


@pytest.mark.parametrize("settings", [{"optimizer": {"clip_norm": 0.1}}, {"optimizer": {"name": "lars"}}], ids=str)
def test_clipping_and_lars_leave_projections_without_gradient_out(pair_of, tiny_data, tmp_path, settings) -> None:
    train_pair(pair_of("simsiam", training=settings), tiny_data, tmp_path)
    assert_same_run(tmp_path)


def test_no_setting_of_the_hierarchy_acts_before_the_fork(pair_of, tiny_data, tmp_path) -> None:
    hierarchy = {
        "features": "invariant",
        "views": 2,
        "weight": 0.5,
        "projection_warmup_epochs": 1,
        "reassign": True,
        "negatives": "all",
        "kmeans": {"warm_iterations": 2},
    }
    train_pair(pair_of("simsiam", hierarchy, training={"epochs": 4}), tiny_data, tmp_path)
    assert_same_run(tmp_path)


# --- what it takes over -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(pair_of, tiny_data, tmp_path_factory) -> Path:
    """A trained pair, read-only."""
    folder = tmp_path_factory.mktemp("simsiam")
    train_pair(pair_of("simsiam"), tiny_data, folder)
    return folder


def test_its_history_and_record_have_the_epochs_of_the_baseline(home) -> None:
    forked, baseline = (pd.read_csv(home / out / "history.csv") for out in ("forked", "out0"))
    shared = list(baseline.columns)
    pd.testing.assert_frame_equal(forked[shared][:START], baseline[:START], check_exact=True)  # clocks included
    records = [json.loads(line) for line in (home / "forked" / "record.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["params", "metrics", "metrics", "snapshot", "metrics", "end"]
    assert records[0]["values"]["stem"] == {"run": "simsiam-baseline-s0", "epochs": START}
    assert [record["values"]["seconds"] for record in records[1:3]] == baseline["seconds"][:START].tolist()


def test_the_longest_stem_that_fits_is_taken(tmp_path) -> None:
    for epochs in (2, 10, 12):
        stem_path(tmp_path, epochs).touch()
    found = [find_stem(tmp_path, epochs) for epochs in (0, 1, 2, 9, 11, 200)]
    assert [path and path.stem for path in found] == [None, None, "epoch0002", "epoch0002", "epoch0010", "epoch0012"]


def test_a_shorter_stem_gives_the_same_bits(pair_of, home, tiny_data, tmp_path) -> None:
    baseline, hirl = pair_of("simsiam")
    stems = tmp_path / "stems"
    pretrain(baseline, tiny_data, tmp_path / "out0", tmp_path / "scratch0", stems=stems, kept_epochs=[1])
    pretrain(hirl, tiny_data, tmp_path / "forked", tmp_path / "scratch1", stems=stems)
    for name in ("whole", "scratch2"):
        shutil.copytree(home / name, tmp_path / name)
    assert_same_run(tmp_path)


def test_without_a_stem_that_fits_all_epochs_are_trained(pair_of, home, tiny_data, tmp_path, capsys) -> None:
    _, hirl = pair_of("simsiam", {"start_epoch": 1}, training={"epochs": 2})
    pretrain(hirl, tiny_data, tmp_path / "out", tmp_path / "scratch", stems=home / "stems")
    assert f"trains all epochs: {home / 'stems'} has no state of its first ones" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out" / "history.csv")) == 2


# --- after a kill -----------------------------------------------------------------------------------------------------


def test_a_killed_fork_resumes_from_its_own_checkpoint(
    pair_of, home, tiny_data, tmp_path, stopped_after_one_epoch, monkeypatch
) -> None:
    _, hirl = pair_of("simsiam")
    folders = tiny_data, tmp_path / "forked", tmp_path / "scratch1"
    with stopped_after_one_epoch():
        pretrain(hirl, *folders, stems=home / "stems")
    monkeypatch.setattr(core.Trainer, "steps", lambda *_: pytest.fail("the last epoch was done"))
    pretrain(hirl, *folders, stems=tmp_path / "removed")
    for name in ("whole", "scratch2"):
        shutil.copytree(home / name, tmp_path / name)
    assert_same_run(tmp_path)


def test_a_killed_baseline_keeps_its_stem(pair_of, tiny_data, tmp_path, stopped_after_one_epoch, capsys) -> None:
    baseline, _ = pair_of("simsiam")
    folders = tiny_data, tmp_path / "out", tmp_path / "scratch"
    with stopped_after_one_epoch():
        pretrain(baseline, *folders, stems=tmp_path / "stems", kept_epochs=[1])
    assert not list((tmp_path / "stems").iterdir())
    pretrain(baseline, *folders, stems=tmp_path / "stems", kept_epochs=[1])
    assert [path.name for path in (tmp_path / "stems").iterdir()] == ["epoch0001.pt"]
    pretrain(baseline, *folders, stems=tmp_path / "stems", kept_epochs=[2])
    assert "has no state after epoch 2: it was trained without --stems" in capsys.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(config: RunConfig, data: Path, tmp_path: Path, stems: Path) -> str:
    with pytest.raises(ValueError, match="baseline") as caught:
        pretrain(config, data, tmp_path / "out", tmp_path / "scratch", stems=stems)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "scratch").glob("checkpoint*"))
    return str(caught.value)


@pytest.mark.parametrize("change", [{"seed": 1}, {"training": {"batch_size": 32}}, {"data": "others"}], ids=str)
def test_a_stem_of_another_baseline_is_refused(pair_of, home, tiny_data, tmp_path, change) -> None:
    _, hirl = pair_of("simsiam", training=change.get("training", {}))
    hirl = hirl.model_copy(update={"seed": change.get("seed", 0)})
    data = tiny_data
    if "data" in change:
        data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
        write_json(data / "manifest.json", read_json(data / "manifest.json") | {"digest": "1" * 64})
    said = refusal(hirl, data, tmp_path, home / "stems")
    assert "epoch0002.pt is the state of another baseline: its configuration, seed, data or tokenizer differ" in said


def test_a_damaged_stem_and_a_missing_folder_are_refused(pair_of, home, tiny_data, tmp_path) -> None:
    _, hirl = pair_of("simsiam")
    said = refusal(hirl, tiny_data, tmp_path, tmp_path / "none")
    assert "none is missing: train the baseline with --stems first, or leave out --stems" in said
    content = stem_path(home / "stems", START).read_bytes()
    (tmp_path / "damaged").mkdir()
    stem_path(tmp_path / "damaged", START).write_bytes(content[: len(content) // 2])
    said = refusal(hirl, tiny_data, tmp_path, tmp_path / "damaged")
    assert "epoch0002.pt cannot be read (BadZipFile): train the baseline again" in said
