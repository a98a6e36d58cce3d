"""Search the whole front between compute and quality at once, by evolution.

Source: NSGA-II (Deb et al., 2002) as pymoo has it, on schedules as ECAD (arXiv 2506.15682) does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.machine import require
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.spacing import pay_up
from ditcache_rl.search.space import Numbers, Space, move
from ditcache_rl.search.trials import Attempt

_POPULATION = 32
#: Generations without anything new after which the search ends.
_IDLE = 4
#: Share of the offspring that spend something else than their parents.
_RESPENDING = 0.3


def evolve(
    attempt: Attempt,
    first: Sequence[Schedule],
    space: Space,
    computes: Sequence[int],
    rng: np.random.Generator,
) -> list[Schedule]:
    """Evolve schedules of all numbers of computes together.

    Args:
        attempt: Scores them; it is spent.
        first: Schedules of the first population, at least one for each number.
        space: What may be tried.
        computes: Numbers of site computes; every candidate has one of them.
        rng: Draws parents and changes.

    Returns:
        The best schedule of each number, of those that were scored.

    Raises:
        ConfigError: If pymoo is not installed.
    """
    population = np.array([space.numbers(schedule) for schedule in first])
    algorithm = _algorithm(attempt, population, space, np.array(sorted(computes)), rng)
    while attempt.left > 0:
        before = attempt.left
        for _ in range(_IDLE):  # a generation that brings nothing new costs nothing
            algorithm.next()
            if attempt.left < before:
                break
        else:
            break
    return [attempt.best(count) for count in computes]


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
            asked = [space.schedule(numbers) for numbers in x]
            attempt.score(asked)
            # What the limit left unscored is worse than everything.
            losses = [-attempt.value(one) if attempt.knows(one) else np.inf for one in asked]
            spent = [one.computes for one in asked]
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
            whole = [_repaired(numbers, space, allowed, rng) for numbers in x]
            return np.array([space.numbers(move(one, space, rng)) for one in whole])

    algorithm = NSGA2(
        pop_size=_POPULATION,
        sampling=Population.new("X", first),
        crossover=_OnePoint(),
        mutation=_Moves(prob=1.0),
    )
    algorithm.setup(_Schedules(), seed=int(rng.integers(2**31)), verbose=False)
    return algorithm


def _repaired(
    numbers: Numbers, space: Space, allowed: NDArray[np.int64], rng: np.random.Generator
) -> Schedule:
    """Fix the ends, and make a schedule compute one of the numbers that are asked for."""
    numbers = numbers.copy()
    numbers[0] = 0
    if space.ends:
        numbers[-1] = 0
    costs = space.costs
    spent = int(costs[numbers].sum())
    if rng.random() < _RESPENDING:
        wanted = int(rng.choice(allowed))
    else:
        wanted = int(allowed[np.abs(allowed - spent).argmin()])
    while (over := int(costs[numbers].sum()) - wanted) > 0:
        paid = space.free[costs[numbers[space.free]] > 0]
        place = int(rng.choice(paid))
        left = max(0, int(costs[numbers[place]]) - over)
        fitting = np.flatnonzero(costs == left) if left else np.array(space.between)
        numbers[place] = int(rng.choice(fitting))
    return pay_up(space.schedule(numbers), wanted)
