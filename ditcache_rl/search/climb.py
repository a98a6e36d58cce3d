"""Hill climbing and simulated annealing at a fixed number of computes.

`climb` and `anneal` score candidates on the final image and spend what evaluations they have;
`climb_paths` scores which steps compute by an error of its caller's.

Source: the search of BudCache (arXiv 2606.13496), extended by the mode of the steps between (reuse,
forecast of order 1 or 2) and by partial computes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.search.space import Space, move
from ditcache_rl.search.trials import Attempt

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


def climb(
    attempt: Attempt, first: Sequence[Schedule], space: Space, rng: np.random.Generator
) -> Schedule:
    """Move from the best of the first schedules to better ones, until no evaluation is left.

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


def anneal(
    attempt: Attempt, first: Sequence[Schedule], space: Space, rng: np.random.Generator
) -> Schedule:
    """Accept worse schedules too, less and less, then climb from the best."""
    best = current = max(attempt.score(first), key=attempt.value)
    total = attempt.left
    while attempt.left > (1 - _ANNEALED) * total:
        done = 1 - attempt.left / total
        temperature = _HOT * (_COLD / _HOT) ** (done / _ANNEALED)
        moves = attempt.score(_unseen(attempt, current, space, rng, attempt.width))
        if not moves:
            break
        for moved in moves:
            gain = attempt.value(moved) - attempt.value(current)
            if gain >= 0 or rng.random() < math.exp(gain / temperature):
                current = moved
        best = max(best, *moves, key=attempt.value)
    return climb(attempt, [best], space, rng)


def climb_paths(
    error: Callable[[ComputePath], float],
    first: Sequence[ComputePath],
    steps: int,
    *,
    evaluations: int,
    rng: np.random.Generator,
) -> ComputePath:
    """Climb to the path with the least error, moving one or two computed steps at a time.

    Args:
        error: Scores a path; asked once for each.
        first: Where to start; as many computed steps each.
        steps: Denoising steps.
        evaluations: Paths to score, the first ones included.
        rng: Orders the moves.
    """
    error = functools.cache(error)
    scored = set(first)
    best = min(dict.fromkeys(first), key=error)
    moves = _moves(best, steps, rng)
    while len(scored) < evaluations:
        moved = next((path for path in moves if path not in scored), None)
        if moved is None:
            break  # nothing near is better
        scored.add(moved)
        if error(moved) < error(best):
            best, moves = moved, _moves(moved, steps, rng)
    return best


def _moves(path: ComputePath, steps: int, rng: np.random.Generator) -> Iterator[ComputePath]:
    """List the paths nearby, in random order, the nearest first."""
    places = range(1, len(path))
    near = [((place, change),) for place in places for change in (-1, 1)]
    far = [((place, change),) for place in places for change in (-2, 2)]
    pairs = [(a, b) for (a,), (b,) in itertools.combinations(near, 2)]
    for group in (near, far, pairs):
        for index in rng.permutation(len(group)):
            moved = list(path)
            for place, change in group[index]:
                moved[place] += change
            if moved[-1] < steps and all(a < b for a, b in itertools.pairwise(moved)):
                yield tuple(moved)


def _unseen(
    attempt: Attempt, near: Schedule, space: Space, rng: np.random.Generator, count: int
) -> list[Schedule]:
    """Draw moves that were not scored yet; stronger ones where what is near is known."""
    found: dict[Schedule, None] = {}
    for draw in range(_MOST_DRAWS):
        times = None if draw < _DRAWS * count else 2 + draw // (_DRAWS * count)
        moved = move(near, space, rng, times=times)
        if not attempt.knows(moved):
            found[moved] = None
        if len(found) == count:
            break
    return list(found)
