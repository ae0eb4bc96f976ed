from __future__ import annotations

import pytest

from hirl.cli import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a step that must fail, and returns the one line a user reads."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        assert output.err.startswith("hirl: ")
        assert output.err.count("\n") == 1
        return output.err

    return run
