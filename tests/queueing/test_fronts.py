import numpy as np
import pytest

from ditcache_rl.queueing import Fronts, Worth
from ditcache_rl.queueing.fronts import Ints
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.types import Floats

STEPS = 6
WORTH = Worth(most_db=60.0, bend_db=4.0, factor=10.0, power=1.2)


@pytest.fixture
def costs() -> Floats:
    """Give every gap a cost of its own, and none to steps that follow each other."""
    costs = np.random.default_rng(0).uniform(1, 2, (STEPS, STEPS, STEPS + 1))
    for newest in range(STEPS):
        costs[:, newest, newest + 1] = 0.0
    return costs


def at(older: int, newest: int, step: int) -> tuple[Ints, Ints, Ints]:
    return np.array(older), np.array(newest), np.array(step)


def test_what_a_row_can_reach_is_what_its_best_way_on_is_worth(costs: Floats) -> None:
    fronts, spent = Fronts(costs, WORTH), np.array(0.5)

    reached = fronts.psnr_db(*at(0, 2, 4), spent)

    assert (reached == WORTH.psnr_db(fronts.placement.least_costs(*at(0, 2, 4)) + spent)).all()
    path = fronts.placement.path(3)
    assert fronts.fresh_db[3] == pytest.approx(WORTH.psnr_db(np.array(path_cost(costs, path))))


def test_what_is_spent_counts_with_what_is_left(costs: Floats) -> None:
    fronts = Fronts(costs, WORTH)
    state = at(0, 2, 4)

    reached = fronts.psnr_db(*state, np.array(0.5))

    assert reached[0] == pytest.approx(WORTH.psnr_db(costs[0, 2, STEPS] + 0.5))
    assert reached[STEPS] == reached[STEPS - 4]  # no more than two steps are left
    assert (reached <= fronts.psnr_db(*state, np.array(0.0))).all()


def test_an_image_without_gaps_is_worth_most() -> None:
    assert WORTH.psnr_db(np.array([0.0]))[0] == 60.0
    # Far below it every tenfold cost loses the same.
    losses = np.diff(WORTH.psnr_db(np.array([1e6, 1e7, 1e8])))
    assert losses == pytest.approx([-4.0 * 1.2 * np.log(10)] * 2)


def test_nominal_gaps_cost_what_a_line_through_two_points_misses() -> None:
    fronts = Fronts.nominal(4)

    # Steps 2 and 3 from 0 and 1: at 1 and 2 steps after the newest, 2 and 3 after the older one.
    assert fronts.costs[0, 1, 4] == pytest.approx(((1 * 2 + 2 * 3) / 16) ** 1.6)
    assert fronts.costs[0, 0, 2] == pytest.approx(((1 * 3) / 16) ** 1.6)
    assert fronts.costs[0, 1, 2] == 0.0
    assert (np.diff(Fronts.nominal(28).fresh_db[1:]) > 0).all()
