"""What long work shows while it runs: a bar in a terminal, lines elsewhere, JSON, or nothing."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from ditcache_rl.types import Progress

#: Seconds between two lines of one stage, for people and for programs.
_LINE_S, _JSON_S = 60.0, 10.0


def shown_progress(title: str, options: Namespace) -> Progress:
    """Return what shows the progress of a command, as its options and stderr want it.

    Args:
        title: Of the command.
        options: With `quiet` and `log_json`.
    """
    if options.quiet:
        return Progress()
    if options.log_json:
        return JsonLines(title)
    console = Console(stderr=True)
    return Bar(title, console) if console.is_terminal else Lines(title)


class Bar(Progress):
    """One bar over all that there is to do, with what is being done and the time left.

    Args:
        title: Of the bar.
        console: Where to show it; by default stderr, so that results can be redirected.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._display = Display(
            TextColumn(f"[bold]{title}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console or Console(stderr=True),
        )
        self._task = self._display.add_task("open", total=None)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._display.stop()

    def say(self, text: str) -> None:
        """Show what is being done, beside the bar."""
        self._display.update(self._task, description=text)

    def note(self, text: str) -> None:
        """Leave a line above the bar; commands in it can be copied as they are."""
        self._display.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def expect(self, total: float) -> None:
        """Set the length of the bar."""
        self._display.update(self._task, total=total)

    def advance(self, count: float) -> None:
        """Move the bar on."""
        self._display.advance(self._task, count)

    def reach(self, count: float) -> None:
        """Move the bar to a place."""
        self._display.update(self._task, completed=count)


class Lines(Progress):
    """A line where a stage begins, and one a minute within it: for logs and pipes.

    Args:
        title: Of the command.
        out: Where to write; by default stderr.
        clock: Seconds, from anywhere.
    """

    every_s = _LINE_S

    def __init__(
        self, title: str, out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self._out, self._clock = title, out, clock
        self._total: float | None = None
        self._done, self._started, self._written = 0.0, clock(), -float("inf")
        self._stage = ""

    def __exit__(self, *exception: object) -> None:
        kind = exception[0]
        interrupted = "interrupted" if kind is KeyboardInterrupt else "failed"
        self._write("end", "done" if kind is None else interrupted)

    def stage(self, name: str) -> None:
        """Write that a stage begins."""
        self._stage = name
        self._write("stage", name)

    def say(self, text: str) -> None:
        """Write what is being done, unless that was not long ago."""
        if self._clock() - self._written >= self.every_s:
            self._write("progress", text)

    def note(self, text: str) -> None:
        """Write a line."""
        self._write("note", text)

    def expect(self, total: float) -> None:
        """Set what counts as all."""
        self._total = total

    def advance(self, count: float) -> None:
        """Count on."""
        self._done += count

    def reach(self, count: float) -> None:
        """Set the count."""
        self._done = count

    @property
    def share(self) -> float | None:
        """What is done of all; None where nobody knows how much there is."""
        return min(1.0, self._done / self._total) if self._total else None

    def _write(self, event: str, text: str) -> None:
        if event != "note":
            self._written = self._clock()
        print(
            self.line(event, text, seconds=self._clock() - self._started),
            file=self._out or sys.stderr,
            flush=True,
        )

    def line(self, event: str, text: str, *, seconds: float) -> str:
        """Return what is written of an event."""
        share = self.share
        if event == "note":
            return text
        done = "" if share is None or event == "end" else f" {share:4.0%}"
        return f"{self.title} {_minutes(seconds)}{done}  {text}"


class JsonLines(Lines):
    """An object per line instead: `event`, `command`, `stage`, `text`, `share` and `seconds`."""

    every_s = _JSON_S

    def line(self, event: str, text: str, *, seconds: float) -> str:
        """Return an event as JSON; `event` is stage, progress, note or end."""
        return json.dumps(
            {
                "event": event,
                "command": self.title,
                "stage": self._stage,
                "text": text,
                "share": self.share,
                "seconds": round(seconds, 3),
            }
        )


def _minutes(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
