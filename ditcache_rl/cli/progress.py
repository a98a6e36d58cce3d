"""What long work shows in the terminal while it runs."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from ditcache_rl.types import Progress


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
        """Leave a line above the bar."""
        self._display.console.print(text, markup=False)

    def expect(self, total: float) -> None:
        """Set the length of the bar."""
        self._display.update(self._task, total=total)

    def advance(self, count: float) -> None:
        """Move the bar on."""
        self._display.advance(self._task, count)

    def reach(self, count: float) -> None:
        """Move the bar to a place."""
        self._display.update(self._task, completed=count)
