import numpy as np
import pytest

from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search import Space, rescale_plan, spaced_plan
from ditcache_rl.search.space import spaced
from ditcache_rl.types import Floats, Mode


def levels(steps: int, shift: float = 1.5) -> Floats:
    """Noise levels of a flow-matching sampler."""
    sigmas = np.linspace(1, 0, steps + 1)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def rescaled(plan: Plan, steps: int, new_steps: int, sites: int) -> Plan:
    """Carry over, at every budget."""
    budgets = range(sites, new_steps * sites + 1)
    return rescale_plan(plan, levels(steps), levels(new_steps), sites=sites, budgets=budgets)


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize(("steps", "new_steps"), [(28, 50), (28, 12), (6, 4), (5, 5)])
def test_carried_schedules_spend_every_budget_exactly(
    steps: int, new_steps: int, sites: int
) -> None:
    carried = rescaled(spaced_plan(steps, sites), steps, new_steps, sites)

    budgets = np.flatnonzero(carried.patterns[:, 0] >= 0)
    assert budgets.tolist() == list(range(sites, new_steps * sites + 1))
    rows = carried.patterns[budgets]
    spent = pattern_costs(step_patterns(sites))[rows].sum(axis=1)
    np.testing.assert_array_equal(spent, budgets)
    assert (rows[:, 0] == Mode.COMPUTE).all()
    assert np.isnan(carried.quality).all()


def test_the_same_steps_carry_schedules_over_unchanged() -> None:
    plan = spaced_plan(28, 1)

    same = rescaled(plan, 28, 28, 1)

    np.testing.assert_array_equal(same.patterns[1:], plan.patterns[1:])


def test_computed_steps_stay_at_their_noise_levels() -> None:
    plan = spaced_plan(28, 1)

    carried = rescaled(plan, 28, 56, 1)

    # Twice the steps: every old level is met, and as many steps compute.
    computed = levels(56)[:-1][carried.patterns[7] == Mode.COMPUTE]
    before = levels(28)[:-1][plan.patterns[7] == Mode.COMPUTE]
    np.testing.assert_allclose(computed, before, atol=1e-12)


@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("new_steps", [6, 12, 13, 27, 50])
def test_both_ends_stay_exactly_where_they_are(new_steps: int, sites: int) -> None:
    space = Space(12, sites, ends=True)
    rows = np.full((12 * sites + 1, 12), -1, dtype=np.int64)
    for budget in (2 * sites, 5 * sites, 12 * sites):
        rows[budget] = spaced(space, budget, between=Mode.REUSE)

    carried = rescaled(Plan.unfitted(rows), 12, new_steps, sites)

    for budget in range(2 * sites, new_steps * sites + 1):
        row = carried.patterns[budget]
        assert row[0] == row[-1] == Mode.COMPUTE
        assert pattern_costs(step_patterns(sites))[row].sum() == budget


@pytest.mark.parametrize("mode", [Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2])
def test_a_last_step_that_is_not_computed_keeps_its_mode(mode: Mode) -> None:
    row = np.full(12, int(mode))
    row[[0, 5]] = Mode.COMPUTE
    rows = np.full((13, 12), -1, dtype=np.int64)
    rows[2] = row

    for new_steps in (6, 20, 50):
        carried = rescaled(Plan.unfitted(rows), 12, new_steps, 1)
        found = carried.patterns[2]
        assert (found[0], found[-1]) == (Mode.COMPUTE, mode)


def test_too_few_steps_for_any_schedule_are_spread_from_full_compute() -> None:
    rows = np.full((29, 28), -1, dtype=np.int64)
    rows[14] = spaced(Space(28, 1), 14, between=Mode.FORECAST1)

    carried = rescale_plan(Plan.unfitted(rows), levels(28), levels(10), sites=1, budgets=[5])

    assert (carried.patterns[5] == Mode.COMPUTE).sum() == 5
    assert carried.patterns[5, 0] == Mode.COMPUTE
