"""Hill climbing over step patterns at a fixed budget, scored on the final image.

Source: the search of BudCache (arXiv 2606.13496) reduced to its hill-climbing half, extended by the
mode of the steps between (reuse, forecast of order 1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control import Plan
from ditcache_rl.control.patterns import pattern_costs, step_patterns
from ditcache_rl.search.board import Board, Case
from ditcache_rl.types import Floats, Mode

Row = NDArray[np.int64]

#: Exponents that space the computed steps: below 1 they crowd at the end, above 1 at the start.
_SPACINGS = (0.7, 0.85, 1.0, 1.2, 1.5)
_FORECASTS = (Mode.FORECAST1, Mode.FORECAST2)


class ClimbSettings(NamedTuple):
    """How long to search, and what counts."""

    evaluations: int
    """Candidates per budget, each drawn on every case."""
    psnr_weight: float
    ssim_weight: float


def search_plan(
    board: Board,
    cases: Sequence[Case],
    *,
    budgets: Sequence[int],
    settings: ClimbSettings,
    rng: np.random.Generator,
    on_budget: Callable[[int, float], None] | None = None,
    start: Plan | None = None,
) -> Plan:
    """Search the static schedule of every budget.

    Budgets are searched in ascending order; each starts from spaced schedules and from the best
    schedule of the budget before with one more computed step.

    Args:
        board: Where candidates are scored.
        cases: What they are scored on.
        budgets: Site computes, each at least `board.sites`.
        settings: Length and objective.
        rng: Draws the moves.
        on_budget: Called with budget and mean PSNR when a budget is done.
        start: Schedules to start from in place of spaced ones, where it has any.

    Returns:
        One schedule per budget, rows in between left empty.
    """
    steps, sites = board.steps, board.sites
    patterns = step_patterns(sites)
    rows = np.full((steps * sites + 1, steps), -1, dtype=np.int64)
    quality = np.full((steps * sites + 1, 2), np.nan)
    before: Row | None = None
    for budget in sorted(budgets):
        if start is not None and start.patterns[budget, 0] >= 0:
            first = [start.patterns[budget]]
        else:
            first = [_spaced(steps, sites, budget, power, Mode.FORECAST1) for power in _SPACINGS]
            first.append(_spaced(steps, sites, budget, 1.0, Mode.FORECAST2))
        if before is not None:
            first.append(pay_up(before, budget, patterns))
        best, scored = _climb(board, cases, first, settings, patterns, rng)
        rows[budget], quality[budget], before = best, scored, best
        if on_budget is not None:
            on_budget(budget, float(scored[0]))
    return Plan(rows, quality)


def spaced_plan(steps: int, sites: int) -> Plan:
    """Return evenly spaced schedules with forecasts of order 1 for every budget, not scored."""
    budgets = steps * sites + 1
    rows = np.full((budgets, steps), -1, dtype=np.int64)
    for budget in range(sites, budgets):
        rows[budget] = _spaced(steps, sites, budget, 1.0, Mode.FORECAST1)
    return Plan(rows, np.full((budgets, 2), np.nan))


def _climb(
    board: Board,
    cases: Sequence[Case],
    first: Sequence[Row],
    settings: ClimbSettings,
    patterns: NDArray[np.int8],
    rng: np.random.Generator,
) -> tuple[Row, Floats]:
    """Score the first candidates, then move from the best as long as evaluations are left."""
    width = max(1, board.rows // len(cases))
    seen: dict[bytes, Floats] = {}

    def evaluate(candidates: Sequence[Row]) -> None:
        fresh = list(
            {row.tobytes(): row for row in candidates if row.tobytes() not in seen}.values()
        )
        for begin in range(0, len(fresh), width):
            part = fresh[begin : begin + width]
            schedules = [patterns[row] for row in part for _ in cases]
            result = board.score(list(cases) * len(part), schedules)
            psnr = result.psnr_db.reshape(len(part), -1).mean(axis=1)
            ssim = result.ssim.reshape(len(part), -1).mean(axis=1)
            for row, *scored in zip(part, psnr, ssim, strict=True):
                seen[row.tobytes()] = np.array(scored)

    def value(row: Row) -> float:
        psnr, ssim = seen[row.tobytes()]
        return float(settings.psnr_weight * psnr / 10 + settings.ssim_weight * ssim)

    evaluate(first)
    best = max(first, key=value)
    idle = 0
    while len(seen) < settings.evaluations + len(first) and idle < 8:
        known = len(seen)
        moves = [_move(best, patterns, rng) for _ in range(width)]
        evaluate(moves)
        best = max((best, *moves), key=value)
        idle = idle + 1 if len(seen) == known else 0
    return best, seen[best.tobytes()]


def _spaced(steps: int, sites: int, budget: int, power: float, between: Mode) -> Row:
    """Space full computes over the steps, the first included; a rest makes a partial pattern."""
    row = np.full(steps, int(between), dtype=np.int64)
    whole, rest = divmod(budget, sites)
    # The last computed step lies before the last step: what is computed there is of no use to
    # others.
    grid = np.linspace(0, 1, whole + 1)[:-1] ** power
    places = np.unique(np.round(grid * steps).astype(int))
    places = np.concatenate([places, np.setdiff1d(np.arange(steps), places)[: whole - len(places)]])
    row[places] = Mode.COMPUTE
    if rest:
        free = np.flatnonzero(row != Mode.COMPUTE)
        row[free[len(free) // 2]] = 4 + 2 * (rest - 1)
    return row


def pay_up(row: Row, budget: int, patterns: NDArray[np.int8]) -> Row:
    """Add computes to a schedule, in the middle of its longest gaps, until it spends the budget."""
    costs, row = pattern_costs(patterns), row.copy()
    sites = patterns.shape[1]
    while (missing := budget - int(costs[row].sum())) > 0:
        dearer = Mode.COMPUTE if missing >= sites else 4 + 2 * (missing - 1)
        free = np.flatnonzero(costs[row] == 0)
        if not len(free):
            # Every step computes something: complete the partial ones.
            partial = int(np.flatnonzero(costs[row] < sites)[0])
            lacking = min(missing, sites - int(costs[row[partial]]))
            whole = int(costs[row[partial]]) + lacking
            row[partial] = Mode.COMPUTE if whole == sites else 4 + 2 * (whole - 1)
            continue
        taken = np.flatnonzero(costs[row] > 0)
        before = free - taken[np.searchsorted(taken, free) - 1]
        after = np.append(taken, len(row))[np.searchsorted(taken, free)] - free
        row[free[np.argmax(np.minimum(before, after))]] = dearer
    return row


def _move(row: Row, patterns: NDArray[np.int8], rng: np.random.Generator) -> Row:
    """Change a schedule a little without changing what it spends."""
    costs, row = pattern_costs(patterns), row.copy()
    for _ in range(1 + int(rng.random() < 0.35)):
        paid = np.flatnonzero(costs[row] > 0)
        paid = paid[paid > 0]
        if len(paid) and rng.random() < 0.7:
            place = int(rng.choice(paid))
            other = int(np.clip(place + rng.choice([-3, -2, -1, 1, 2, 3]), 1, len(row) - 1))
            row[[place, other]] = row[[other, place]]
        else:
            free = np.flatnonzero(costs[row] == 0)
            if len(free):
                begin = int(rng.choice(free))
                length = int(rng.integers(1, 5))
                span = free[(free >= begin) & (free < begin + length)]
                row[span] = int(rng.choice([Mode.REUSE, *_FORECASTS]))
    return row
