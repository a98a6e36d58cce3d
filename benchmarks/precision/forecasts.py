"""Ways to estimate what a schedule skips, on a schedule of the policy and on even steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.precision.drawn import IMAGES, STEPS, score
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.forecast import newton_coefficients
from ditcache_rl.search import GapFitter
from ditcache_rl.types import HISTORY, Floats

#: Prompts that coefficients are fitted on.
FITTED = 16
#: What a forecast adds to the newest residual is multiplied by this.
DAMPED = 0.7


def forecasts(board: Board, config: EnvConfig, schedule: Schedule) -> dict[str, Any]:
    """Draw schedules with every way to estimate what they skip: PSNR in dB by schedule and way."""
    even = np.linspace(0, STEPS - 1, schedule.computes).round().astype(int)
    paths: dict[str, ComputePath] = {"policy": schedule.path, "even": tuple(even.tolist())}
    fitter = GapFitter(board, cases_of(config, "train")[:FITTED])
    sigmas = board.sigmas()
    parts = {part: cases_of(config, part)[:IMAGES] for part in ("select", "test")}
    found: dict[str, Any] = {}
    for name, path in paths.items():
        ways = {
            way: Schedule.on_path(path, STEPS, _coefficients(sigmas, path, weigh))
            for way, weigh in WAYS.items()
        }
        ways["fitted"] = fitter.fit(path)
        found[name] = {
            way: {f"{part}_db": score(board, filled, cases) for part, cases in parts.items()}
            for way, filled in track(ways.items(), f"forecasts, {name} schedule")
        }
    return found


def _newton(order: int) -> Callable[[Floats, float, float], Floats]:
    return lambda known, sigma, after: newton_coefficients(known, sigma, min(order, len(known) - 1))


def _damped(known: Floats, sigma: float, after: float) -> Floats:
    reuse = newton_coefficients(known, sigma, 0)
    return reuse + DAMPED * (_newton(1)(known, sigma, after) - reuse)


def _average(known: Floats, sigma: float, after: float) -> Floats:
    """Forecast in the middle of the step: the average velocity over it, of a line."""
    return _newton(1)(known, (sigma + after) / 2, after)


#: Coefficients of past residuals, from their noise levels, that of the step and of the next one.
WAYS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "reuse": _newton(0),
    "order 1 (two anchors)": _newton(1),
    "order 2": _newton(2),
    "order 1, damped": _damped,
    "average velocity": _average,
}


def _coefficients(
    sigmas: Floats, path: ComputePath, weigh: Callable[[Floats, float, float], Floats]
) -> Floats:
    """Write the coefficients of a schedule: (steps, HISTORY), nan at computed steps."""
    table = np.full((STEPS, HISTORY), np.nan)
    for step in sorted(set(range(STEPS)) - set(path)):
        known = sigmas[[computed for computed in path if computed < step][::-1][:HISTORY]]
        table[step] = weigh(known, float(sigmas[step]), float(sigmas[step + 1]))
    return table
