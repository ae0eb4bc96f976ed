"""What several tests of trainings share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hirl.training import core


@pytest.fixture
def stopped_after_one_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """A context in which a training is interrupted once it has saved its first epoch."""
    save = core.save_checkpoint

    def save_and_stop(folder: Path, epochs_done: int, state: dict[str, object]) -> None:
        save(folder, epochs_done, state)
        raise KeyboardInterrupt

    @contextmanager
    def stopped() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(core, "save_checkpoint", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stopped
