import itertools

import numpy as np
import pytest

from ditcache_rl.errors import ShapeError
from ditcache_rl.schedules.placement import Placement, costs_at, path_cost
from ditcache_rl.search.paths import cheapest_path
from ditcache_rl.types import Floats

STEPS = 6


def random_costs(seed: int) -> Floats:
    costs = np.random.default_rng(seed).exponential(size=(STEPS, STEPS, STEPS + 1))
    for step in range(STEPS):
        costs[:, step, step + 1] = 0.0
    return costs


def total(costs: Floats, path: tuple[int, ...]) -> float:
    return path_cost(costs, path)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("computes", range(1, STEPS + 1))
def test_a_placed_path_costs_least_of_all_that_compute_no_more(seed: int, computes: int) -> None:
    costs = random_costs(seed)
    every = [
        (0, *rest)
        for count in range(computes)
        for rest in itertools.combinations(range(1, STEPS), count)
    ]

    path = Placement(costs).path(computes)

    assert total(costs, path) == pytest.approx(min(total(costs, one) for one in every))


@pytest.mark.parametrize("seed", range(4))
def test_the_way_on_from_anywhere_is_the_best_of_all_ways_on(seed: int) -> None:
    costs, older, newest, step, left = random_costs(seed), 0, 1, 3, 2
    ways = {
        rest: total(costs, (older, newest, *rest)) - total(costs, (older, newest))
        for count in range(left + 1)
        for rest in itertools.combinations(range(step, STEPS), count)
    }

    stop = Placement(costs).next_stop(
        np.array([left]), np.array([older]), np.array([newest]), step
    )[0]

    best = min(ways, key=lambda rest: ways[rest])
    assert stop == (best[0] if best else STEPS)


def test_it_agrees_with_the_search_of_paths_of_a_given_length() -> None:
    costs = np.random.default_rng(3).exponential(size=(STEPS, STEPS, STEPS + 1))
    gaps = np.arange(STEPS + 1)[None, None, :] - np.arange(STEPS)[None, :, None]
    costs += 10.0 * np.maximum(gaps - 1, 0) ** 2  # so much that every compute is worth it

    assert Placement(costs).path(4) == cheapest_path(costs, 4)


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_the_next_stop_where_computing_it_costs_less_than_every_other_way(
    seed: int,
) -> None:
    placement = Placement(random_costs(seed))
    older, newest, step, left = (
        one.ravel() for one in np.meshgrid(*(np.arange(STEPS),) * 2, np.arange(1, STEPS), range(4))
    )
    for at in range(1, STEPS):
        rows = (older <= newest) & (newest < at) & (step == at)
        parts = left[rows], older[rows], newest[rows], at
        now, later = placement.ways(parts[0][:, None], *parts[1:])
        np.testing.assert_array_equal((now < later)[:, 0], placement.next_stop(*parts) == at)


@pytest.mark.parametrize("seed", range(4))
def test_the_least_cost_is_that_of_the_best_way_on(seed: int) -> None:
    costs, (older, newest, step) = random_costs(seed), (0, 2, 3)
    ways = [
        (count, total(costs, (older, newest, *rest)) - costs[older, older, newest])
        for count in range(STEPS - step + 1)
        for rest in itertools.combinations(range(step, STEPS), count)
    ]

    least = Placement(costs, STEPS).least_costs(np.array(older), np.array(newest), step)

    for left in range(STEPS + 1):
        assert least[left] == pytest.approx(min(cost for count, cost in ways if count <= left))


def test_the_least_cost_of_a_whole_image_is_that_of_the_best_path() -> None:
    placement, none = Placement(random_costs(0), STEPS), np.array(0)

    least = placement.least_costs(none, none, 0)

    assert least[0] == np.inf
    for computes in range(1, STEPS + 1):
        best = total(placement.costs, placement.path(computes))
        assert least[computes] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_all_numbers_of_computes_are_answered_as_each_alone(seed: int) -> None:
    placement = Placement(random_costs(seed), STEPS)
    places = [(i, j, k) for i, j, k in itertools.product(range(STEPS), repeat=3) if i <= j < k]
    older, newest, step = np.array([(0, 0, 0), *places]).T

    due = placement.due(older, newest, step)

    for left in range(STEPS + 1):
        stops = placement.next_stop(np.full(len(step), left), older, newest, step)
        assert (due[:, left] == (stops == step)).all()


def test_step_0_is_computed_in_any_case() -> None:
    placement, none = Placement(random_costs(0), STEPS), np.array(0)

    assert placement.next_stop(none, none, none, 0) == 0
    assert placement.due(none, none, 0).all()


def test_costs_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(T, T, T \+ 1\), received \(4, 4, 4\)"):
        Placement(np.zeros((4, 4, 4)))


def powered_costs(sigmas: Floats) -> Floats:
    """Cost a gap the fourth power of how far it goes, whatever was computed before."""
    steps = len(sigmas) - 1
    far = sigmas[:steps, None] - sigmas[None]
    start, stop = np.ogrid[:steps, : steps + 1]
    return np.broadcast_to(np.where(stop > start + 1, far**4, 0.0), (steps, steps, steps + 1))


@pytest.mark.parametrize("steps", [5, 12, 31])
def test_costs_at_other_noise_levels_lie_between_those_that_were_measured(steps: int) -> None:
    own, sigmas = np.linspace(1, 0, 13), np.linspace(1, 0, steps + 1) ** 1.2

    found, wanted = costs_at(powered_costs(own), own, sigmas), powered_costs(sigmas)

    # What is shorter than two measured steps begins and ends within the same ones.
    told = np.broadcast_to(sigmas[:-1, None] - sigmas[None] >= 2 / 12, found.shape)
    np.testing.assert_allclose(found[told], wanted[told], rtol=1e-9)
    assert (found[:, np.arange(steps), np.arange(1, steps + 1)] == 0).all()
    assert (found >= 0).all()


def test_costs_at_the_measured_noise_levels_stay_what_they_are() -> None:
    own, costs = np.linspace(1, 0, STEPS + 1) ** 1.5, random_costs(2)
    costs *= np.arange(STEPS + 1)[None, None, :] > np.arange(STEPS)[None, :, None] + 1

    found = costs_at(costs, own, own)

    earlier = np.triu(np.ones((STEPS, STEPS), dtype=bool), 1)
    np.testing.assert_allclose(found[earlier], costs[earlier])
    np.testing.assert_allclose(found[0, 0], costs[0, 0])
