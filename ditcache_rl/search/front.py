"""Search the whole front between compute and quality at once, by evolution.

Source: NSGA-II (Deb et al., 2002) as pymoo has it, on schedules as ECAD (arXiv 2506.15682) does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.machine import require
from ditcache_rl.search.space import Row, Space, move, pay_up
from ditcache_rl.search.trials import Attempt

_POPULATION = 32
#: Generations without anything new after which the search ends.
_IDLE = 4
#: Share of the offspring that spend something else than their parents.
_RESPENDING = 0.3


def evolve(
    attempt: Attempt,
    first: Sequence[Row],
    space: Space,
    budgets: Sequence[int],
    rng: np.random.Generator,
) -> dict[int, Row]:
    """Evolve schedules of all budgets together.

    Args:
        attempt: Scores them; it is spent.
        first: Schedules of the first population, at least one for each budget.
        space: What may be tried.
        budgets: Site computes; every candidate spends one of them.
        rng: Draws parents and changes.

    Returns:
        The best schedule of every budget that was scored.

    Raises:
        ConfigError: If pymoo is not installed.
    """
    algorithm = _algorithm(attempt, np.array(first), space, np.array(sorted(budgets)), rng)
    while attempt.left > 0:
        before = attempt.left
        for _ in range(_IDLE):  # a generation that brings nothing new costs nothing
            algorithm.next()
            if attempt.left < before:
                break
        else:
            break
    return {budget: attempt.best(budget) for budget in budgets}


def _algorithm(
    attempt: Attempt,
    first: NDArray[np.int64],
    space: Space,
    allowed: NDArray[np.int64],
    rng: np.random.Generator,
) -> Any:
    """Set NSGA-II up; pymoo is imported here, because nothing else needs it."""
    require("train", "pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    class _Schedules(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            most = len(space.patterns) - 1
            super().__init__(n_var=space.steps, n_obj=2, xl=0, xu=most, vtype=int)

        def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_: Any, **__: Any) -> None:
            attempt.score(list(x))
            # What the limit left unscored is worse than everything.
            losses = [-attempt.value(row) if attempt.knows(row) else np.inf for row in x]
            spent = [space.computes(row) for row in x]
            out["F"] = np.column_stack([np.nan_to_num(losses, posinf=1e9), spent])

    class _OnePoint(Crossover):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_parents=2, n_offsprings=2)

        def _do(self, _: Any, x: NDArray[np.int64], *__: Any, **___: Any) -> NDArray[np.int64]:
            children = x.copy()
            for pair in range(x.shape[1]):
                cut = int(rng.integers(1, space.steps))
                children[:, pair, cut:] = x[::-1, pair, cut:]
            return children

    class _Moves(Mutation):  # type: ignore[misc]
        def _do(self, _: Any, x: NDArray[np.int64], **__: Any) -> NDArray[np.int64]:
            return np.array([move(row, space, rng) for row in _repaired(x, space, allowed, rng)])

    algorithm = NSGA2(
        pop_size=_POPULATION,
        sampling=Population.new("X", first),
        crossover=_OnePoint(),
        mutation=_Moves(prob=1.0),
    )
    algorithm.setup(_Schedules(), seed=int(rng.integers(2**31)), verbose=False)
    return algorithm


def _repaired(
    rows: NDArray[np.int64], space: Space, allowed: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    return np.array([_repair(row, space, allowed, rng) for row in rows])


def _repair(row: Row, space: Space, allowed: NDArray[np.int64], rng: np.random.Generator) -> Row:
    """Fix the ends, and make a schedule spend one of the budgets."""
    row = row.copy()
    row[0] = 0
    if space.ends:
        row[-1] = 0
    spent = space.computes(row)
    if rng.random() < _RESPENDING:
        wanted = int(rng.choice(allowed))
    else:
        wanted = int(allowed[np.abs(allowed - spent).argmin()])
    costs = space.costs
    while (over := space.computes(row) - wanted) > 0:
        paid = space.free[costs[row[space.free]] > 0]
        place = int(rng.choice(paid))
        left = max(0, int(costs[row[place]]) - over)
        fitting = np.flatnonzero(costs == left) if left else np.array(space.between)
        row[place] = int(rng.choice(fitting))
    return pay_up(row, wanted, space.patterns)
