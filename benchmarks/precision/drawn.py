"""Quality and times of a board, alone and under a runner."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from rich.progress import track

from benchmarks.harness.play import play
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner

STEPS = 28
IMAGES = 32
#: Calls per setting; the first one is not counted.
CALLS = 9


def score(board: Board, controller: StaticSchedule, cases: Sequence[Case]) -> float:
    """Return the mean PSNR of cases under a controller, in dB."""
    return float(play(board, controller, cases).psnr_db.mean())


def timer(board: Board, runner: BlockRunner | None) -> Callable[[Case], float]:
    """Make what times one call."""
    return lambda case: timed(board, runner, case)


def timed(board: Board, runner: BlockRunner | None, case: Case) -> float:
    """Return the seconds of one call; attaching is outside of the clock."""
    if runner is not None:
        with runner:
            return timed(board, None, case)
    started = time.perf_counter()
    board.draw([case])
    return time.perf_counter() - started


def interleaved(
    calls: Mapping[str, Callable[[Case], float]], cases: Sequence[Case]
) -> dict[str, float]:
    """Return the median seconds of every setting."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for case in track(cases[: CALLS + 1], "times"):
        for name, call in calls.items():
            times[name].append(call(case))
    return {name: statistics.median(seen[1:]) for name, seen in times.items()}
