"""Show how far a training is: a bar in a terminal, lines in a log, with the same facts. Import costs no torch."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LINE_SECONDS = 30.0  # between lines within an epoch
BAR_SECONDS = 1.0  # between two states of the bar; drawing it takes a few milliseconds
RECENT = 5  # epochs whose mean time predicts that of those to come
SHOWN = ("loss", "path_loss", "feature_std")


class Progress:
    """The progress of one training; used as a context.

    Args:
        name: of the training.
        epochs: of the whole training.
        per_epoch: steps of an epoch.
        batch_size: images of a step.
        done: epochs that are finished already.
        shown: whether this process shows anything; on several ranks only the first does.
    """

    def __init__(self, name: str, epochs: int, per_epoch: int, batch_size: int, done: int, shown: bool = True):
        self.name, self.epochs, self.per_epoch, self.batch_size = name, epochs, per_epoch, batch_size
        self.done, self.shown = done, shown
        self.seconds: list[float] = []  # of the epochs since this process started
        self.epoch_started = self.last_shown = time.monotonic()
        # what the bar shows; the position counts epochs
        self.position, self.epoch, self.text, self.left = float(done), min(done + 1, epochs), f"step 0/{per_epoch}", ""
        self.bar: Live | None = None

    def __enter__(self) -> Progress:
        """Start the bar in a terminal."""
        if self.shown and self.done < self.epochs and in_terminal():
            from rich.live import Live

            self.bar = Live(get_renderable=self._drawing, auto_refresh=False)  # no thread beside the training's
            self.bar.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.stop()

    def start_epoch(self) -> None:
        """Start the clock of an epoch."""
        self.epoch_started = time.monotonic()

    def start_steps(self) -> None:
        """Start the clock of an epoch's steps: what came before is no part of the images/s."""
        self.steps_started = time.monotonic()

    def is_due(self) -> bool:
        """Return whether it is time to show the progress within an epoch. It is asked after every step."""
        wait = LINE_SECONDS if self.bar is None else BAR_SECONDS
        return self.shown and time.monotonic() - self.last_shown > wait

    def show_step(self, step: int, means: Mapping[str, float]) -> None:
        """Show the progress within an epoch: a line, or the state of the bar.

        Args:
            step: steps that are done, from 1.
            means: of the losses over these steps.
        """
        now = self.last_shown = time.monotonic()
        rate = step * self.batch_size / max(now - self.steps_started, 1e-9)
        part = step / self.per_epoch
        epoch_seconds = self._epoch_seconds() or (now - self.epoch_started) / part
        left = duration((self.epochs - self.done - part) * epoch_seconds) + " left"
        parts = [f"step {step}/{self.per_epoch}", *facts({"images_per_second": rate, **means})]
        self._show(self.done + part, self.done + 1, parts, left)

    def show_epoch(self, row: Mapping[str, float]) -> None:
        """Show the progress after an epoch, from its row of the history."""
        self.seconds.append(row["seconds"])
        self.done += 1
        self.last_shown = time.monotonic()
        rate = self.per_epoch * self.batch_size / max(row["seconds"], 1e-9)
        left = duration((self.epochs - self.done) * (self._epoch_seconds() or 0)) + " left"
        left = left if self.done < self.epochs else ""
        self._show(self.done, self.done, facts({"images_per_second": rate, **row}), left)

    def _epoch_seconds(self) -> float | None:
        """Return the mean time of the last epochs; None before the first one's end."""
        return mean(self.seconds[-RECENT:]) if self.seconds else None

    def _show(self, position: float, epoch: int, parts: list[str], left: str) -> None:
        self.position, self.epoch, self.text, self.left = position, epoch, "  ".join(parts), left
        if self.bar is not None:
            self.bar.refresh()
        elif self.shown:
            print("  ".join(filter(None, (self.name, f"epoch {epoch}/{self.epochs}", *parts, left))), flush=True)

    def _drawing(self) -> RenderableType:
        """Return the two rows of the bar."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1), expand=True)
        for share in (None, 1, None, None):
            row.add_column(ratio=share, no_wrap=True)
        bar = ProgressBar(total=self.epochs, completed=self.position)
        row.add_row(self.name, bar, f"epoch {self.epoch}/{self.epochs}", self.left)
        return Group(row, Text(f"  {self.text}"))


def facts(values: Mapping[str, float]) -> list[str]:
    """Return the numbers of an epoch that a user follows, in words."""
    parts = [f"{name.replace('_', ' ')} {values[name]:.3f}" for name in SHOWN if name in values]
    return [*parts, f"{values['images_per_second']:.0f} images/s"]


def duration(seconds: float) -> str:
    """Return seconds in words: 42 s, 3 min 5 s, 2 h 10 min, 3,140 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{round(seconds / 3600):,} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def in_terminal() -> bool:
    """Return whether a bar can be drawn: the output is a terminal that moves its cursor, and rich is installed."""
    moves = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return moves and importlib.util.find_spec("rich") is not None
