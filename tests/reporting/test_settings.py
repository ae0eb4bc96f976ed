"""Settings that differ are shown once, with the methods that share them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hirl.config.study import published_settings
from hirl.reporting.runs import Run, open_runs
from hirl.reporting.settings import Difference, between_variants, from_paper

BLOCK = {"negatives": 100, "tree": "kmeans"}


def runs_of(folder: Path, configs: dict[str, dict[str, Any]]) -> list[Run]:
    for name, config in configs.items():
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "config.json").write_text(json.dumps(config | {"hash": name}))
    return open_runs(folder, configs)


def test_methods_that_share_a_difference_stand_in_one_line(tmp_path: Path) -> None:
    configs: dict[str, dict[str, Any]] = {}
    for method, start in (("dino", 5), ("ibot", 5), ("swav", 9)):
        configs[f"{method}-baseline-s0"] = {"hierarchy": None, "training": {"epochs": 10}}
        configs[f"{method}-hirl-s0"] = {"hierarchy": BLOCK | {"start_epoch": start}, "training": {"epochs": 10}}
    assert between_variants(runs_of(tmp_path, configs)) == {
        "HIRL against baseline": [
            Difference("hierarchy.negatives", "–", "100", ()),
            Difference("hierarchy.start_epoch", "–", "5", ("DINO", "iBOT")),
            Difference("hierarchy.start_epoch", "–", "9", ("SwAV",)),
            Difference("hierarchy.tree", "–", "kmeans", ()),
        ]
    }


def test_other_variants_are_compared_with_hirl(tmp_path: Path) -> None:
    configs = {
        "dino-baseline-s0": {"hierarchy": None},
        "dino-hirl-s0": {"hierarchy": BLOCK},
        "dino-hirl-random-s0": {"hierarchy": BLOCK | {"tree": "random"}},
    }
    found = between_variants(runs_of(tmp_path, configs))
    assert found["HIRL-random against HIRL"] == [Difference("hierarchy.tree", "kmeans", "random", ())]


def test_changes_of_published_settings_are_listed_by_section(tmp_path: Path) -> None:
    published = published_settings("dino")
    own = {"epochs": 3, "batch_size": published["training.batch_size"]}
    runs = runs_of(tmp_path, {"dino-baseline-s0": {"training": own, "mine": 1}})
    line = Difference("training.epochs", str(published["training.epochs"]), "3", ())
    assert from_paper(runs) == {"training": [line]}


def test_a_method_without_a_file_has_no_published_settings(tmp_path: Path) -> None:
    assert published_settings("mine") == {}
    assert from_paper(runs_of(tmp_path, {"mine-baseline-s0": {"training": {"epochs": 3}}})) == {}
