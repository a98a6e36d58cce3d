"""Hill climbing and simulated annealing over step patterns at a fixed budget.

Both score candidates on the final image and spend what evaluations they have.

Source: the search of BudCache (arXiv 2606.13496), extended by the mode of the steps between (reuse,
forecast of order 1 or 2) and by partial computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search.space import Row, Space, move, pay_up, spaced
from ditcache_rl.search.trials import Attempt, Trials, Weights
from ditcache_rl.types import Mode

#: Exponents that space the computed steps of the first candidates.
_SPACINGS = (0.7, 0.85, 1.0, 1.2, 1.5)
#: Candidates without improvement after which a climb goes on from a changed copy of its best.
_PATIENCE = 48
#: Changes that lead out of a local optimum.
_KICK = 4
#: Draws of a move that nobody has seen before a search takes stronger ones, and at most.
_DRAWS, _MOST_DRAWS = 8, 64
#: Temperatures of an annealing, first and last, in the unit of the objective: 0.5 to 0.02 dB.
_HOT, _COLD = 0.05, 0.002
#: Share of the evaluations of an annealing after which it only climbs.
_ANNEALED = 2 / 3


class ClimbSettings(NamedTuple):
    """How long to search, and what counts."""

    evaluations: int
    """Candidates per budget beyond the first ones, each drawn on every case."""
    psnr_weight: float
    ssim_weight: float


def first_rows(space: Space, budget: int) -> list[Row]:
    """List what a search at a budget starts from: schedules spaced in several ways."""
    main = Mode.FORECAST1 if Mode.FORECAST1 in space.between else space.between[0]
    rows = [spaced(space, budget, power=power, between=main) for power in _SPACINGS]
    others = [mode for mode in space.between if mode not in (main, Mode.REUSE)]
    return [*rows, *(spaced(space, budget, between=mode) for mode in others)]


def starts(
    space: Space,
    budget: int,
    *,
    start: Plan | None,
    propose: Callable[[Space, int], Sequence[Row]] | None,
    before: Row | None,
) -> list[Row]:
    """List what the search of one budget of a plan starts from.

    Args:
        space: Steps and sites.
        budget: Site computes.
        start: Schedules to take in place of spaced ones, where it has any.
        propose: Names further schedules.
        before: The best schedule of the budget before; one more compute is added to it.
    """
    if start is not None and start.patterns[budget, 0] >= 0:
        first = [start.patterns[budget]]
    else:
        first = first_rows(space, budget)
    if propose is not None:
        first.extend(propose(space, budget))
    if before is not None:
        first.append(pay_up(before, budget, space.patterns))
    return first


def climb(attempt: Attempt, first: Sequence[Row], space: Space, rng: np.random.Generator) -> Row:
    """Move from the best of the first rows to better ones, until no evaluation is left.

    Where nothing near is better, the search goes on from a changed copy of its best.
    """
    best = current = max(attempt.score(first), key=attempt.value)
    stale = 0
    while attempt.left > 0:
        moves = attempt.score(_unseen(attempt, current, space, rng, attempt.width))
        if not moves:
            break  # everything that moves reach is known
        top = max(moves, key=attempt.value)
        better = attempt.value(top) > attempt.value(current)
        current, stale = (top, 0) if better else (current, stale + len(moves))
        best = max(best, top, key=attempt.value)
        if stale >= _PATIENCE and attempt.left > 0:
            kicked = attempt.score([move(best, space, rng, times=_KICK)])
            current, stale = (kicked or [best])[0], 0
    return max(best, current, key=attempt.value)


def anneal(attempt: Attempt, first: Sequence[Row], space: Space, rng: np.random.Generator) -> Row:
    """Accept worse rows too, less and less, then climb from the best."""
    best = current = max(attempt.score(first), key=attempt.value)
    total = attempt.left
    while attempt.left > (1 - _ANNEALED) * total:
        done = 1 - attempt.left / total
        temperature = _HOT * (_COLD / _HOT) ** (done / _ANNEALED)
        moves = attempt.score(_unseen(attempt, current, space, rng, attempt.width))
        if not moves:
            break
        for row in moves:
            gain = attempt.value(row) - attempt.value(current)
            if gain >= 0 or rng.random() < math.exp(gain / temperature):
                current = row
        best = max(best, *moves, key=attempt.value)
    return climb(attempt, [best], space, rng)


def search_plan(
    board: Board,
    cases: Sequence[Case],
    *,
    budgets: Sequence[int],
    settings: ClimbSettings,
    rng: np.random.Generator,
    on_budget: Callable[[int, float], None] | None = None,
    start: Plan | None = None,
    propose: Callable[[Space, int], Sequence[Row]] | None = None,
    before: Row | None = None,
) -> Plan:
    """Climb to the static schedule of every budget.

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
        propose: Names further schedules of a budget to start from.
        before: A schedule that computes less, for the first budget to start from too.

    Returns:
        One schedule per budget, rows in between left empty.
    """
    trials = Trials(board, cases, Weights(settings.psnr_weight, settings.ssim_weight))
    space = trials.space
    plan = Plan.empty(space.steps * space.sites, space.steps)
    for budget in sorted(budgets):
        first = starts(space, budget, start=start, propose=propose, before=before)
        attempt = trials.attempt(settings.evaluations + len(first))
        before = climb(attempt, first, space, rng)
        plan.patterns[budget], plan.quality[budget] = before, attempt.score_of(before)
        if on_budget is not None:
            on_budget(budget, float(plan.quality[budget, 0]))
    return plan


def spaced_plan(steps: int, sites: int) -> Plan:
    """Return evenly spaced schedules with forecasts of order 1 for every budget, not scored."""
    plan, space = Plan.empty(steps * sites, steps), Space(steps, sites)
    for budget in range(sites, steps * sites + 1):
        plan.patterns[budget] = spaced(space, budget, between=Mode.FORECAST1)
    return plan


def _unseen(
    attempt: Attempt, row: Row, space: Space, rng: np.random.Generator, count: int
) -> list[Row]:
    """Draw moves that were not scored yet; stronger ones where what is near is known."""
    found: dict[bytes, Row] = {}
    for draw in range(_MOST_DRAWS):
        times = None if draw < _DRAWS * count else 2 + draw // (_DRAWS * count)
        moved = move(row, space, rng, times=times)
        if not attempt.knows(moved):
            found[moved.tobytes()] = moved
        if len(found) == count:
            break
    return list(found.values())
