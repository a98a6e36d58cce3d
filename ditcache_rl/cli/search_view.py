"""What a search shows: a bar while it runs, a table when it is done."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Scored


def render_schedules(found: Mapping[str, Policy]) -> Table:
    """Lay what searches found out for the terminal: a line per budget, a column per method."""
    manifest = next(iter(found.values())).manifest
    table = Table(
        title=f"{manifest.env_id}: mean PSNR in dB on the {manifest.prompts} prompts that were "
        "searched on"
    )
    for title in ("steps", "computed", *found):
        table.add_column(title, justify="right")
    for steps in dict.fromkeys(steps for policy in found.values() for steps in policy.steps):
        own: list[Mapping[int, Scored]] = [p.tables.get(steps, {}) for p in found.values()]
        for computes in sorted({computes for one in own for computes in one}):
            scores = [one[computes].psnr_db if computes in one else None for one in own]
            shown = ["-" if psnr is None else f"{psnr:.2f}" for psnr in scores]
            table.add_row(str(steps), f"{computes / (steps * manifest.sites):.0%}", *shown)
        table.add_section()
    return table


class SearchBar:
    """Candidates done of all, with what is being done."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]search"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
        )
        self._task = self._progress.add_task("open", total=None)

    def __enter__(self) -> SearchBar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Tell what is being done."""
        self._progress.update(self._task, description=text)

    def note(self, text: str) -> None:
        """Leave a line above the bar."""
        self._progress.console.print(text, markup=False)

    def expect(self, candidates: int) -> None:
        """Tell how much there is to do."""
        self._progress.update(self._task, total=candidates)

    def advance(self, candidates: int) -> None:
        """Count candidates."""
        self._progress.advance(self._task, candidates)

    def reach(self, candidates: int) -> None:
        """Count a method as done that needed less than it may."""
        self._progress.update(self._task, completed=candidates)
