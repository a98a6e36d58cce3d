"""A small board of requests on one machine: four steps, two rows, costs for hand arithmetic."""

from __future__ import annotations

import numpy as np

from ditcache_rl.queueing import Fronts, QueueState, TickCosts, Worth
from ditcache_rl.types import Floats

STEPS = 4
#: A compute takes a second; together they are no cheaper.
LINEAR = TickCosts(np.array([0.0, 1.0, 2.0]))
#: A second compute beside the first takes a third of its time.
BATCHY = TickCosts(np.array([0.0, 3.0, 4.0]))


def gap_squares() -> Floats:
    """Charge every gap the square of its length, whatever was before it."""
    newest, stop = np.arange(STEPS)[:, None], np.arange(STEPS + 1)
    lengths = np.maximum(stop - newest - 1, 0).astype(np.float64)
    return np.repeat(lengths[None] ** 2, STEPS, axis=0)


def fronts() -> Fronts:
    """Lose with the logarithm of the cost."""
    return Fronts(gap_squares(), Worth(most_db=50.0, bend_db=10.0, factor=1.0, power=1.0))


def queue(*rows: tuple[int, int, float], waiting: tuple[float, ...] = ()) -> QueueState:
    """Describe one machine at second 0.

    Args:
        rows: Step, newest computed step and deadline of each active row, of two.
        waiting: Deadlines of requests that wait.
    """
    state = QueueState.empty(1, 2, 3)
    for place, (step, newest, deadline_s) in enumerate(rows):
        state.active[0, place] = True
        state.step[0, place] = step
        state.newest[0, place] = newest
        state.made[0, place] = step > 0
        state.deadline_s[0, place] = deadline_s
    state.waiting_s[0, : len(waiting)] = waiting
    return state
