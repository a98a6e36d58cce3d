import numpy as np
import pytest

from ditcache_rl.inference import Tables
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, carry
from ditcache_rl.schedules.gaps import LONGEST, schedule_on
from ditcache_rl.schedules.placement import Placement, costs_at
from ditcache_rl.types import Floats
from tests.kit.pacers import tiny_pacer

STEPS, COUNTS = 16, (2, 4, LONGEST, LONGEST + 1)


def levels(steps: int, shift: float = 1.5) -> Floats:
    sigmas = np.linspace(1, 0, steps + 1)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


OWN = levels(STEPS)
#: Computes at the begin alone, which costs much with gaps as those of the tiny pacer.
SOURCE = ScheduleTable.of(
    OWN,
    [Scored(Schedule.on_path(tuple(range(n)), STEPS), 10.0 * n, 0.5) for n in COUNTS],
)


@pytest.mark.parametrize("sigmas", [levels(12), levels(16, 3.0), levels(40)])
def test_other_noise_levels_are_met_by_what_gaps_cost_there(sigmas: Floats) -> None:
    pacer = tiny_pacer(OWN)
    placement = Placement(costs_at(pacer.costs, OWN, sigmas))

    made = Tables([SOURCE], pacer).at(sigmas)

    for count in COUNTS[:-1]:
        assert made[count].schedule == schedule_on(placement.path(count), pacer.gaps, sigmas)
        assert made[count][1:3] == (10.0 * count, 0.5)


def test_what_is_carried_over_stays_where_it_costs_little_more_than_the_best() -> None:
    pacer, sigmas = tiny_pacer(OWN), levels(20)
    best = Placement(pacer.costs).path(4)
    source = ScheduleTable.of(OWN, [Schedule.on_path(best, STEPS)])

    made = Tables([source], pacer).at(sigmas)

    assert made[4].schedule == carry([source], sigmas)[4].schedule


def test_what_was_made_for_these_noise_levels_stays() -> None:
    assert Tables([SOURCE], tiny_pacer(OWN)).at(OWN.copy()) is SOURCE


def test_more_computes_than_gaps_were_fitted_on_are_carried_over() -> None:
    sigmas = levels(20)

    made = Tables([SOURCE], tiny_pacer(OWN)).at(sigmas)

    carried = carry([SOURCE], sigmas)
    for count in (LONGEST + 1, 20):
        assert made[count].schedule == carried[count].schedule


def test_noise_levels_that_rise_are_carried_over() -> None:
    rising = levels(20)[::-1].copy()

    made = Tables([SOURCE], tiny_pacer(OWN)).at(rising)

    carried = carry([SOURCE], rising)
    assert {n: one.schedule for n, one in made.items()} == {
        n: one.schedule for n, one in carried.items()
    }
