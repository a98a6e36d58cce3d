"""Quality and times of a board, alone and under a runner."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from rich.progress import track

from benchmarks.harness.play import play
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.schedules import Schedule

STEPS = 28
IMAGES = 32
#: Calls per setting; the first one is not counted.
CALLS = 9


def score(board: Board, schedule: Schedule, cases: Sequence[Case]) -> float:
    """Return the mean PSNR of cases under a schedule, in dB."""
    return float(play(board, StaticSchedule(schedule), cases).psnr_db.mean())


def timer(board: Board, schedule: Schedule | None) -> Callable[[Case], float]:
    """Make what times one call, as it is or under a schedule; attaching is not in its time."""
    controller = None if schedule is None else StaticSchedule(schedule)
    return lambda case: board.draw([case], controller).seconds


def interleaved(
    calls: Mapping[str, Callable[[Case], float]], cases: Sequence[Case]
) -> dict[str, float]:
    """Return the median seconds of every setting."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for case in track(cases[: CALLS + 1], "times"):
        for name, call in calls.items():
            times[name].append(call(case))
    return {name: statistics.median(seen[1:]) for name, seen in times.items()}
