"""Settings that a contender has beside its knob, searched on select prompts.

From the package's own settings, one option after the other takes the value that draws best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.contender import Setup
from benchmarks.peers.solvers import SOLVER_STEPS, SOLVERS, other_solver
from benchmarks.peers.verified import VERIFIED, VERIFIED_OPTIONS, VerifiedForecast
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import Controller
from ditcache_rl.evaluate import silent
from ditcache_rl.metrics import psnr_db

Options = dict[str, Any]
#: Who has some.
SETTINGS = (*SOLVERS, VERIFIED)
#: Shares of full compute at which rules are compared, and thresholds that they are tried at.
_SHARES, _THRESHOLDS = (0.2, 0.25, 0.33, 0.45), (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def best_options(
    options: Mapping[str, Sequence[Any]], quality: Callable[[Options], float]
) -> Options:
    """Choose a value of each option, in turn.

    Args:
        options: Values by name, the package's own first.
        quality: Mean PSNR under some options; a setting that fails is none.

    Raises:
        Exception: What the package's own settings raise, if no other value runs either.
    """
    errors: list[Exception] = []

    def judged(tried: Options) -> float:
        try:
            return quality(tried)
        except Exception as error:  # whatever a package raises at a setting
            errors.append(error)
            return -math.inf

    chosen: Options = {}
    best = judged(chosen)
    for name, (_, *others) in options.items():
        for value in others:
            tried = chosen | {name: value}
            found = judged(tried)
            if found > best:
                chosen, best = tried, found
    if best == -math.inf:
        raise errors[0]
    return chosen


def settings_of(
    name: str, pipe: Any, steps: int, call: Options, cases: Sequence[Case]
) -> dict[str, Any]:
    """Choose the settings of a contender: of other solvers for each number of steps.

    Args:
        name: One of `SETTINGS`.
        pipe: The pipeline.
        steps: Denoising steps of the reference.
        call: Further arguments of its call.
        cases: That images are compared on.
    """
    board = Board(pipe, steps, sites=1, call=call)
    if name == VERIFIED:
        return best_options(
            VERIFIED_OPTIONS,
            lambda chosen: rule_quality(
                board, cases, lambda value: VerifiedForecast(value, **chosen), _THRESHOLDS
            ),
        )
    references, setup = board.references(cases), Setup(pipe, steps, lambda: None)
    kind, fixed, options = SOLVERS[name]

    def quality(count: int, chosen: Options) -> float:
        method = other_solver(kind, **fixed, **chosen)(setup, count)
        few = Board(pipe, count, sites=1, call=call)
        with silent(pipe), method["applied"](pipe):
            return float(psnr_db(few.draw(cases).images, references).mean())

    counts = [count for count in SOLVER_STEPS if count < steps]
    return {str(count): best_options(options, partial(quality, count)) for count in counts}


def rule_quality(
    board: Board,
    cases: Sequence[Case],
    make: Callable[[float], Controller],
    thresholds: Sequence[float],
) -> float:
    """Return the mean PSNR of a rule at some shares of full compute, between its thresholds."""
    points = []
    for threshold in thresholds:
        with silent(board.pipe):
            drawn = board.draw(cases, make(threshold))
        assert drawn.log is not None, "a controller makes one"
        share = float((drawn.log.modes == 0).mean())
        points.append((share, float(board.judge(drawn.images, cases).psnr_db.mean())))
    shares, found = np.transpose(sorted(points))
    return float(np.interp(_SHARES, shares, found).mean())
