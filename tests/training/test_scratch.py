from __future__ import annotations

from pathlib import Path

from hirl.training.scratch import checkpoint_path, checkpoints, saved_epochs


def test_the_newest_checkpoint_tells_the_epochs_that_are_saved(tmp_path: Path) -> None:
    assert saved_epochs(tmp_path) == 0
    for epochs in (9, 10):
        checkpoint_path(tmp_path, epochs).touch()
    (tmp_path / ".checkpoint00011.7.pt").touch()  # being written
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint00010.pt", "checkpoint00009.pt"]
    assert saved_epochs(tmp_path) == 10
