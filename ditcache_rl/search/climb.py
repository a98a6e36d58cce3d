"""Hill climbing and simulated annealing at a fixed number of computes.

`climb` and `anneal` score candidates on the final image and spend what evaluations they have;
`climb_paths` scores which steps compute by errors of its caller's.

Source: the search of BudCache (arXiv 2606.13496), extended by the mode of the steps between (reuse,
forecast of order 1 or 2) and by partial computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

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
    errors: Callable[[Sequence[ComputePath]], Sequence[float]],
    first: Sequence[ComputePath],
    steps: int,
    *,
    evaluations: int,
    rng: np.random.Generator,
    width: int = 1,
) -> ComputePath:
    """Climb to the path with the least error, moving one or two computed steps at a time.

    Args:
        errors: Scores paths; asked once for each.
        first: Where to start; as many computed steps each.
        steps: Denoising steps.
        evaluations: Paths to score, the first ones included.
        rng: Orders the moves.
        width: Paths that are scored at once. What is found does not depend on it: those behind a
            better one are as if they had not been scored.
    """
    known: dict[ComputePath, float] = {}

    def score(paths: Sequence[ComputePath]) -> None:
        fresh = [path for path in dict.fromkeys(paths) if path not in known]
        known.update(zip(fresh, errors(fresh), strict=True))

    score(first)
    scored = set(first)
    best = min(first, key=known.__getitem__)
    moves = _moves(best, steps, rng)
    while len(scored) < evaluations:
        unseen = (path for path in moves if path not in scored)
        ahead = list(itertools.islice(unseen, min(width, evaluations - len(scored))))
        if not ahead:
            break  # nothing near is better
        score(ahead)
        for moved in ahead:
            scored.add(moved)
            if known[moved] < known[best]:
                best, moves = moved, _moves(moved, steps, rng)
                break
    return best


def _moves(path: ComputePath, steps: int, rng: np.random.Generator) -> Iterator[ComputePath]:
    """List the paths nearby, in random order, the nearest first; all is drawn at once."""
    places = range(1, len(path))
    near = [((place, change),) for place in places for change in (-1, 1)]
    far = [((place, change),) for place in places for change in (-2, 2)]
    pairs = [(a, b) for (a,), (b,) in itertools.combinations(near, 2)]
    groups: list[Sequence[Sequence[tuple[int, int]]]] = [near, far, pairs]
    orders = [rng.permutation(len(group)) for group in groups]

    def moved(changes: Iterable[tuple[int, int]]) -> ComputePath:
        found = list(path)
        for place, change in changes:
            found[place] += change
        return tuple(found)

    every = (
        moved(group[index]) for group, order in zip(groups, orders, strict=True) for index in order
    )
    return (
        one for one in every if one[-1] < steps and all(a < b for a, b in itertools.pairwise(one))
    )


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
