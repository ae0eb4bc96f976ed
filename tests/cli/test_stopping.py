from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hirl.cli import main
from hirl.cli.stopping import Stopped, stopped_by_signals

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def tell(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_once_and_a_second_one_would_end_the_process(number: int) -> None:
    before = signal.getsignal(number)
    with stopped_by_signals():
        with pytest.raises(Stopped) as stopped:
            tell(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    assert stopped.value.number == number
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind a shell's `&`
    try:
        with stopped_by_signals():
            tell(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_training_says_what_is_kept_and_the_same_command_goes_on(
    tiny_study, tiny_data, tmp_path, monkeypatch, capsys
) -> None:
    from hirl.training import core

    save = core.save_checkpoint

    def save_and_stop(folder: Path, epochs_done: int, state: dict) -> None:
        if epochs_done == 2:
            tell(signal.SIGTERM)
        save(folder, epochs_done, state)

    folders = ("--data", tiny_data, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    run = ("--study", tiny_study, "--method", "simsiam", "--variant", "baseline")
    command = [str(part) for part in ("pretrain", *run, *folders)]
    with monkeypatch.context() as patch:
        patch.setattr(core, "save_checkpoint", save_and_stop)
        assert main(command) == 143
    assert capsys.readouterr().err == (
        "simsiam-baseline-s0  stopped after epoch 1/3; the same command goes on\n"  # the second one was not saved
    )
    assert main(command) == 0
    assert "simsiam-baseline-s0  resumes after epoch 1/3\n" in capsys.readouterr().out


def test_other_steps_say_that_they_start_again(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("hirl.data.synthetic.taxonomy.write_taxonomy", lambda *_, **__: tell(signal.SIGINT))
    assert main(["data", "taxonomy", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "hirl: stopped; the same command starts again\n"


STOPPED = """
import os, signal, sys
from hirl.cli import config, main

config.show_config = lambda _: os.kill(os.getpid(), signal.SIGINT)
sys.argv = "hirl config show --method dino --variant hirl".split()
main()
"""


def test_a_program_ends_by_the_signal_so_that_the_loop_of_a_shell_ends_too() -> None:
    said = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert said.returncode == -signal.SIGINT
    assert said.stderr == "hirl: stopped; the same command starts again\n"
