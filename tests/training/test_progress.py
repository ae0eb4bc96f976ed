from __future__ import annotations

import io
import re

import pytest

from hirl.training import progress
from hirl.training.progress import Progress, duration

EPOCHS, PER_EPOCH, BATCH = 4, 10, 32
LOSSES = {"loss": 2.5, "path_loss": 0.25, "feature_std": 0.9}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Return a function that lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def started(done: int = 0, shown: bool = True) -> Progress:
    training = Progress("run", EPOCHS, PER_EPOCH, BATCH, done, shown)
    training.start_epoch()
    training.start_steps()
    return training


def test_a_log_gets_a_line_within_a_long_epoch(clock, capsys) -> None:
    training = started()
    clock(20)
    assert not training.is_due()
    clock(20)
    assert training.is_due()
    training.show_step(5, LOSSES)  # half of the first epoch in 40 s: 80 s for each, so 280 s are left
    assert capsys.readouterr().out == (
        "run  epoch 1/4  step 5/10  loss 2.500  path loss 0.250  feature std 0.900  4 images/s  4 min 40 s left\n"
    )
    assert not training.is_due()


def test_a_log_gets_a_line_after_each_epoch_and_the_last_has_no_time_left(capsys) -> None:
    training = started(done=2)
    for seconds in (3.0, 5.0):
        training.show_epoch({"epoch": 9, "loss": 1.0, "seconds": seconds, "images_per_second": 120.0})
    assert capsys.readouterr().out.splitlines() == [
        "run  epoch 3/4  loss 1.000  120 images/s  3 s left",
        "run  epoch 4/4  loss 1.000  120 images/s",
    ]


def test_images_per_second_leave_out_what_comes_before_the_steps(clock, capsys) -> None:
    training = started()
    clock(60)  # a tree is made
    training.start_steps()
    clock(4)
    training.show_step(5, {})
    assert "40 images/s" in capsys.readouterr().out


def test_other_ranks_say_nothing(clock, capsys) -> None:
    with started(shown=False) as training:
        clock(1000)
        assert not training.is_due()
        training.show_epoch({"loss": 1.0, "seconds": 1.0})
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make the output a terminal of 90 columns; pytest would take it back after a fixture."""
    terminal = Terminal()
    for name, value in {"TERM": "xterm", "COLUMNS": "90", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", terminal)
    return terminal


def test_a_terminal_gets_a_bar_with_the_facts_of_the_lines(clock, monkeypatch) -> None:
    terminal = become_terminal(monkeypatch)
    with started() as training:
        print("tracking failed")
        clock(4)
        assert training.is_due()
        training.show_step(5, LOSSES)
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    row, facts = written.splitlines()[-2:]
    assert re.fullmatch(r"run ━+.*━ epoch 1/4 28 s left", row)
    assert len(row) == 90
    assert facts.strip() == "step 5/10  loss 2.500  path loss 0.250  feature std 0.900  40 images/s"
    assert "tracking failed\n" in written


def test_a_terminal_without_rich_or_without_a_cursor_gets_lines(monkeypatch) -> None:
    become_terminal(monkeypatch)
    assert progress.in_terminal()
    with monkeypatch.context() as patch:
        patch.setattr(progress.importlib.util, "find_spec", lambda _: None)
        assert not progress.in_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not progress.in_terminal()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (157.7, "2 min 38 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (11_304_000, "3,140 h")],
)
def test_durations_are_written_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
