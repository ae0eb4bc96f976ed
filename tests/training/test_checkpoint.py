from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hirl.training.checkpoint import load_checkpoint, save_checkpoint


def state(epochs: int) -> dict[str, object]:
    return {"epochs": epochs, "weights": torch.full((100,), float(epochs)), "history": [{"loss": 0.1}] * epochs}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that has done 12 epochs."""
    for epochs in range(1, 13):
        save_checkpoint(tmp_path, epochs, state(epochs))
    return tmp_path


def test_the_newest_state_comes_back(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded["epochs"] == 12
    assert torch.equal(loaded["weights"], torch.full((100,), 12.0))
    assert loaded["history"] == [{"loss": 0.1}] * 12


def test_two_are_kept(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint00011.pt", "checkpoint00012.pt"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(folder: Path, damage, capsys) -> None:
    newest = folder / "checkpoint00012.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    assert load_checkpoint(folder)["epochs"] == 11
    error = capsys.readouterr().err
    assert str(newest) in error
    assert error.count("\n") == 1


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    newest = folder / "checkpoint00012.pt"
    content = bytearray(newest.read_bytes())
    content[content.index(torch.full((2,), 12.0).numpy().tobytes())] ^= 1
    newest.write_bytes(content)
    assert load_checkpoint(folder)["epochs"] == 11


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_a_failed_save_keeps_what_was_there(folder: Path) -> None:
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(folder, 13, {"function": lambda: None})
    assert load_checkpoint(folder)["epochs"] == 12
    assert len(list(folder.iterdir())) == 2
