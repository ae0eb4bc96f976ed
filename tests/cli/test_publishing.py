from __future__ import annotations

from pathlib import Path

import pytest

from hirl.cli import main


@pytest.mark.parametrize(("action", "function"), [("round", "round_runs"), ("pack", "pack"), ("unpack", "unpack")])
def test_each_action_goes_from_one_folder_to_another(action: str, function: str, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(f"hirl.tracking.publish.{function}", lambda *arguments: calls.append(arguments))
    assert main(["publish", action, "--runs", "dino-hirl-s0", "--from", "here", "--out", "there"]) == 0
    assert calls == [(Path("here"), ["dino-hirl-s0"], Path("there"))]
