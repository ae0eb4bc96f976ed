"""End on Ctrl-C and SIGTERM in one line instead of a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"  # a bar hides it, and a rank that is ended cannot bring it back


class Stopped(KeyboardInterrupt):
    """The process was told to end by a signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` on the first signal within the context; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]  # as under nohup, or behind `&`
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    end_by_signals()
    raise Stopped(number)


def end_by_signals() -> None:
    """Let signals end this process at once and without a word, as those of a rank: its launcher speaks for it."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def say_stopped(line: str) -> None:
    """Print the one line of a stop; nobody may be there to read it."""
    with suppress(OSError):
        if sys.stdout.isatty():
            print(end=SHOW_CURSOR, flush=True)
        print(line, file=sys.stderr, flush=True)


def end_by(number: int) -> NoReturn:
    """End this process by a signal, so that a shell's loop ends too; the shell reads exit code 130 or 143."""
    with suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(f"signal {number} did not end this process")
