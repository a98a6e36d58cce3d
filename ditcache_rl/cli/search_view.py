"""What a search shows: a bar while it runs, a table when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ditcache_rl.policy import Schedule, ScheduleFile


def render_schedules(file: ScheduleFile) -> Table:
    """Lay a schedule file out for the terminal: a line per budget, a column per method."""
    table = Table(
        title=f"{file.env_id}: mean PSNR in dB on the {file.prompts} prompts that were searched on"
    )
    for title in ("steps", "computed", *file.methods):
        table.add_column(title, justify="right")
    scores = {(s.steps, _computes(s), s.method): s.psnr_db for s in file.schedules}
    for steps in file.steps:
        for computed in sorted({count for at, count, _ in scores if at == steps}):
            own = [scores.get((steps, computed, method)) for method in file.methods]
            shown = ["-" if psnr is None else f"{psnr:.2f}" for psnr in own]
            table.add_row(str(steps), f"{computed / (steps * file.sites):.0%}", *shown)
        table.add_section()
    return table


def _computes(schedule: Schedule) -> int:
    return schedule.modes.count("C")


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
