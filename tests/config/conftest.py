"""What several tests of configurations share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

PLAIN = "methods: [mocov2]\nall: {training: {epochs: 5, batch_size: 64}, hierarchy: {start_epoch: 1}}\n"


@pytest.fixture
def study(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a study file and returns its path."""

    def write(text: str, name: str = "own") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


def problem(call: Callable[[], object]) -> str:
    """Return the one line that a user reads."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the words
        call()
    message = str(caught.value)
    assert not isinstance(caught.value, ValidationError)
    assert "\n" not in message
    return message
