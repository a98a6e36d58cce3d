from itertools import combinations, pairwise

import numpy as np
import pytest

from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.search.paths import cheapest_path, minimax_path, threshold_for, threshold_path
from ditcache_rl.types import Floats

STEPS = 7


def every_path(length: int, last: int | None) -> list[ComputePath]:
    paths = [(0, *rest) for rest in combinations(range(1, STEPS), length - 1)]
    return [path for path in paths if last in (None, path[-1])]


def gaps(edges: Floats, path: ComputePath) -> list[float]:
    """List the costs of a path's gaps from the worst down."""
    stops = (*path, STEPS)
    return sorted((edges[j, k] for j, k in pairwise(stops)), reverse=True)


@pytest.mark.parametrize("last", [None, STEPS - 1])
@pytest.mark.parametrize("length", range(2, STEPS + 1))
@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_path_equals_brute_force(seed: int, length: int, last: int | None) -> None:
    costs = np.random.default_rng(seed).random((STEPS, STEPS, STEPS + 1))

    path = cheapest_path(costs, length, last=last)

    best = min(every_path(length, last), key=lambda one: path_cost(costs, one))
    assert path == best


@pytest.mark.parametrize("last", [None, STEPS - 1])
@pytest.mark.parametrize("length", range(2, STEPS + 1))
@pytest.mark.parametrize("seed", range(3))
def test_the_minimax_path_equals_brute_force(seed: int, length: int, last: int | None) -> None:
    # Few different costs, so that the worst gaps are equal and the second worst must decide.
    edges = np.random.default_rng(seed).integers(3, size=(STEPS, STEPS + 1)).astype(float)

    path = minimax_path(edges, length, last=last)

    assert len(path) == length
    assert gaps(edges, path) == min(gaps(edges, one) for one in every_path(length, last))


def test_one_computed_step_is_the_first() -> None:
    assert cheapest_path(np.ones((4, 4, 5)), 1) == (0,)
    assert minimax_path(np.ones((4, 5)), 1) == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_never_exceeded_by_what_is_skipped(seed: int) -> None:
    errors = np.random.default_rng(seed).random((STEPS, STEPS, STEPS))
    for threshold in (0.2, 0.5, 0.8):
        path = threshold_path(errors, threshold)
        stops = (path[0], *path, STEPS)
        for i, j, k in zip(stops, stops[1:], stops[2:], strict=False):
            assert all(errors[i, j, step] <= threshold for step in range(j + 1, k))
            assert k == STEPS or errors[i, j, k] > threshold


def test_a_threshold_is_found_for_every_number_of_steps() -> None:
    # Errors that grow with the age of a residual, as real ones do.
    age = np.arange(STEPS)[None] - np.arange(STEPS)[:, None]
    errors = np.broadcast_to(np.maximum(age, 0) + np.arange(STEPS) / 100, (STEPS,) * 3)

    for length in range(1, STEPS + 1):
        path = threshold_for(errors, length)
        assert 1 <= len(path) <= length
        assert path[0] == 0
    assert threshold_for(errors, STEPS) == tuple(range(STEPS))
    assert threshold_for(errors, 3, last=STEPS - 1)[-1] == STEPS - 1
