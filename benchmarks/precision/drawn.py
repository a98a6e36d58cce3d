"""Images and times of a board, alone and under a runner."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.progress import track
from torch import Tensor

from ditcache_rl.bench import Board, Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner

STEPS = 28
IMAGES = 32
#: Calls per setting; the first one is not counted.
CALLS = 9


def draw(board: Board, controller: StaticSchedule, cases: Sequence[Case]) -> Tensor:
    """Draw cases under a controller, as many at a time as the board takes: (cases, 3, H, W)."""
    images = [
        board.draw_under(controller, cases[start : start + board.rows])[0]
        for start in range(0, len(cases), board.rows)
    ]
    return torch.cat(images)


def score(board: Board, controller: StaticSchedule, cases: Sequence[Case]) -> float:
    """Return the mean PSNR of cases under a controller, in dB."""
    return float(board.judge(draw(board, controller, cases), cases).psnr_db.mean())


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
