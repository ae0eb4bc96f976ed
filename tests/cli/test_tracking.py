from __future__ import annotations

from pathlib import Path

import pytest

from hirl.cli import main
from hirl.config import CONFIG_ROOT


@pytest.mark.parametrize("study", ["demo", str(CONFIG_ROOT / "studies" / "demo.yaml")], ids=["name", "path"])
def test_the_tracker_calls_a_study_by_its_name(study: str, monkeypatch) -> None:
    made = []
    monkeypatch.setattr("hirl.tracking.mlflow.init", lambda uri, experiment: made.append(experiment))
    assert main(["track", "init", "--study", study]) == 0
    assert made == ["demo"]


def test_the_tracker_takes_several_studies_and_says_where_each_is_shown(monkeypatch, capsys) -> None:
    taken = []

    def sync(folder: Path, runs: list[str] | None, uri: str, scratch: Path) -> str:
        taken.append((folder, runs, scratch))
        return str(len(taken))

    monkeypatch.setattr("hirl.tracking.mlflow.sync", sync)
    assert main(["track", "sync", "--results", "results/demo", "results/mine"]) == 0
    folders = [Path("results/demo"), Path("results/mine")]
    assert taken == [(folder, None, Path("scratch") / folder.name) for folder in folders]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["demo", "mine"]
