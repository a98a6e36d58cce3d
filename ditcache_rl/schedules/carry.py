"""Carry schedules, and what was fitted to them, over to other noise levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules.forecast import extra_of, nodes_of, row_of, weights_of
from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.schedules.plan import Plan, PlanRow
from ditcache_rl.types import Floats, Mode


class Leveled(NamedTuple):
    """A plan, and the noise levels that it was made for."""

    plan: Plan
    sigmas: Floats
    """(steps + 1,)."""


class _Move(NamedTuple):
    """Where a schedule goes."""

    way: float
    """Sum of what the computed steps move by, in noise level."""
    old: NDArray[np.int64]
    """Its computed steps."""
    new: NDArray[np.int64]
    """Those of the run that it is carried to."""
    spaced: bool
    """Whether it was evenly spaced and is so again: then gaps are others than were fitted."""


def check_sigmas(sigmas: Mapping[str, Sequence[float]], steps: Sequence[int], where: str) -> None:
    """Check that noise levels as files hold them are there for every step count.

    Raises:
        ArtifactError: If they are not.
    """
    for count in steps:
        received = len(sigmas.get(str(count), ()))
        if received != count + 1:
            raise ArtifactError(
                f"{where}: sigmas must have {count + 1} numbers for {count} steps, received "
                f"{received}"
            )


def carry_plans(sources: Sequence[Leveled], sigmas: Floats, *, sites: int) -> Plan:
    """Carry plans over to the steps of another run, by noise level.

    As many sites compute: with forecasts between, that tells how exact a run is, hardly how many
    are skipped. What was fitted to a gap is kept for it. A budget is carried from the plan whose
    computed steps move least, of those with fitted weights if there are any.

    Args:
        sources: Plans of other runs.
        sigmas: (steps + 1,) noise levels of the run.
        sites: Parts of the block stack.

    Returns:
        A schedule for every budget of the sources that the run has steps for, and full compute. The
        quality is that of the sources, floors are unknown.
    """
    steps = len(sigmas) - 1
    full, patterns = steps * sites, step_patterns(sites)
    carried = Plan.empty(full, steps)
    for budget in range(sites, full):
        known = [one for one in sources if _has(one.plan, budget)]
        fitted = [one for one in known if np.isfinite(one.plan.weights[budget]).any()]
        moves = [
            (move, one)
            for one in fitted or known
            if (move := _move(one.plan.patterns[budget], one.sigmas, sigmas, patterns)) is not None
        ]
        if moves:
            move, (plan, own) = min(moves, key=lambda pair: pair[0].way)
            row = _moved(plan.row(budget), move, own, sigmas, patterns)
            carried.patterns[budget], carried.weights[budget] = row
            carried.quality[budget] = plan.quality[budget]
    carried.patterns[full] = Mode.COMPUTE
    for plan, _ in sources:
        if _has(plan, len(plan.patterns) - 1):
            carried.quality[full] = plan.quality[-1]
    return carried


def _has(plan: Plan, budget: int) -> bool:
    return budget < len(plan.patterns) and bool(plan.patterns[budget, 0] >= 0)


def _move(
    row: NDArray[np.int64], own: Floats, sigmas: Floats, patterns: NDArray[np.int8]
) -> _Move | None:
    """Give every computed step one of its own that is near in noise level; the ends stay ends.

    What was evenly spaced is evenly spaced again: gaps of two and three steps, as they come, are
    not worth keeping. None if there are not as many steps.
    """
    old = np.flatnonzero(pattern_costs(patterns)[row] > 0)
    if len(old) >= len(sigmas):
        return None
    ends = [0, -1] if old[-1] == len(row) - 1 > 0 else [0]
    inner = slice(1, len(old) + 1 - len(ends))
    away = np.abs(sigmas[None, 1 : len(sigmas) - len(ends)] - own[old[inner], None])
    # Squares keep the order, which the way itself leaves open.
    _, places = linear_sum_assignment(away**2)
    last = np.array([len(sigmas) - 2] * (len(ends) - 1), dtype=np.int64)
    new = np.concatenate([[0], np.sort(places) + 1, last])
    # Without a computed step at the end, the end of the run is where the next one would be.
    stops, stop = (old, last[0]) if len(last) else ([*old, len(row)], len(sigmas) - 1)
    spaced = not np.allclose(sigmas[new], own[old]) and bool(np.ptp(np.diff(stops)) <= 1)
    if spaced:
        new = np.linspace(0, stop, len(stops)).round().astype(np.int64)[: len(old)]
    return _Move(float(np.abs(sigmas[new] - own[old]).sum()), old, new, spaced)


def _moved(
    row: PlanRow, move: _Move, own: Floats, sigmas: Floats, patterns: NDArray[np.int8]
) -> PlanRow:
    """Carry one schedule; a step between is filled as the nearest one in noise level was."""
    if np.isfinite(row.weights).any():
        old, new = nodes_of(row.patterns), tuple(move.new.tolist())
        filled = row_of(new, len(sigmas) - 1)
        if move.spaced:
            return PlanRow.unfitted(np.minimum(filled, Mode.FORECAST1))
        return PlanRow(filled, weights_of(new, sigmas, extra_of(old, own, row.weights)))
    idle = np.setdiff1d(np.arange(len(own) - 1), move.old)
    if len(idle):
        nearest = np.abs(sigmas[:-1, None] - own[None, idle]).argmin(axis=1)
        between = row.patterns[idle][nearest]
    else:
        between = np.full(len(sigmas) - 1, int(Mode.FORECAST1))
    between[move.new] = row.patterns[move.old]
    return PlanRow.unfitted(between)
