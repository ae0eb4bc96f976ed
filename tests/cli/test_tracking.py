from __future__ import annotations

import pytest

from hirl.cli import main
from hirl.config import CONFIG_ROOT


@pytest.mark.parametrize("study", ["demo", str(CONFIG_ROOT / "studies" / "demo.yaml")], ids=["name", "path"])
def test_the_tracker_calls_a_study_by_its_name(study: str, monkeypatch) -> None:
    made = []
    monkeypatch.setattr("hirl.tracking.mlflow.init", lambda uri, experiment: made.append(experiment))
    assert main(["track", "init", "--study", study]) == 0
    assert made == ["demo"]
