import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.schedules import Leveled, carry_plans
from ditcache_rl.schedules.forecast import (
    Nodes,
    extra_of,
    newton_weights,
    nodes_of,
    row_of,
    weights_of,
)
from ditcache_rl.schedules.patterns import pattern_costs, step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.types import HISTORY, Floats, Mode

NODES: Nodes = (0, 2, 9, 10, 20, 27)


def levels(steps: int, shift: float = 1.5) -> Floats:
    """Noise levels of a flow-matching sampler."""
    sigmas = np.linspace(1, 0, steps + 1)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def made_of(*schedules: Nodes, steps: int = 28, seed: int = 0) -> Leveled:
    """A plan of fitted schedules of one site."""
    plan, rng = Plan.empty(steps, steps), np.random.default_rng(seed)
    for nodes in schedules:
        extra = rng.normal(size=(len(nodes), HISTORY))
        extra[0, 1:] = 0  # nothing older is known there
        extra[1:2, 2:] = 0
        plan.patterns[len(nodes)] = row_of(nodes, steps)
        plan.weights[len(nodes)] = weights_of(nodes, levels(steps), extra)
        plan.quality[len(nodes)] = 10.0 * len(nodes), 0.5
    return Leveled(plan, levels(steps))


def test_the_same_levels_carry_schedules_and_weights_over_unchanged() -> None:
    source = made_of(NODES, (0, 5), (0,))

    same = carry_plans([source], source.sigmas, sites=1)

    np.testing.assert_array_equal(same.patterns[:-1], source.plan.patterns[:-1])
    np.testing.assert_array_equal(same.quality, source.plan.quality)
    np.testing.assert_allclose(same.weights, source.plan.weights, atol=1e-12)


def test_other_steps_get_as_many_computes_and_what_was_fitted_to_their_gaps() -> None:
    source = made_of((0, 6, 12, 24))

    carried = carry_plans([source], levels(14), sites=1)

    # Half as many steps at the same shift: every second noise level.
    assert nodes_of(carried.patterns[4]) == (0, 3, 6, 12)
    line = newton_weights(levels(14)[[6, 3]], float(levels(14)[8]), 1)
    extra = extra_of((0, 6, 12, 24), source.sigmas, source.plan.weights[4])
    np.testing.assert_allclose(carried.weights[4, 8], line + extra[2], atol=1e-12)
    assert carried.quality[4].tolist() == [40.0, 0.5]
    assert np.isnan(carried.floors).all()


@given(
    st.sets(st.integers(1, 27), max_size=12),
    st.integers(1, 60),
    st.floats(0.5, 4.0),
)
def test_what_is_carried_computes_as_often_and_keeps_its_ends(
    later: set[int], steps: int, shift: float
) -> None:
    nodes = (0, *sorted(later))

    carried = carry_plans([made_of(nodes)], levels(steps, shift), sites=1)

    if len(nodes) >= steps:
        assert (carried.patterns[:-1, 0] < 0).all(), "there are not as many steps"
        assert (carried.patterns[-1] == Mode.COMPUTE).all(), "what can be done anywhere"
        return
    found = nodes_of(carried.patterns[len(nodes)])
    assert len(found) == len(nodes)
    assert found[0] == 0
    assert (found[-1] == steps - 1) or nodes[-1] < 27 or len(nodes) == 1


def test_a_budget_comes_from_the_plan_whose_computed_steps_move_least() -> None:
    near, far = made_of((0, 10, 20), (0, 14), steps=40), made_of((0, 7, 13), (0, 9))

    carried = carry_plans([far, near], levels(20), sites=1)

    assert nodes_of(carried.patterns[3]) == (0, 5, 10)
    assert nodes_of(carried.patterns[2]) == (0, 7)
    extra = extra_of((0, 5, 10), levels(20), carried.weights[3])
    expected = extra_of((0, 10, 20), near.sigmas, near.plan.weights[3])
    np.testing.assert_allclose(extra, expected, atol=1e-12)


def test_a_plan_with_fitted_weights_goes_before_one_without() -> None:
    fitted, bare = made_of((0, 9)), made_of((0, 10), steps=40)
    bare.plan.weights[:] = np.nan

    carried = carry_plans([bare, fitted], levels(20), sites=1)

    assert np.isfinite(carried.weights[2]).any()


@pytest.mark.parametrize("sites", [1, 3])
def test_full_compute_stays_full_compute(sites: int) -> None:
    plan = Plan.empty(8 * sites, 8)
    plan.patterns[8 * sites] = Mode.COMPUTE
    plan.quality[8 * sites] = 60.0, 1.0

    carried = carry_plans([Leveled(plan, levels(8))], levels(5), sites=sites)

    assert np.flatnonzero(carried.patterns[:, 0] >= 0).tolist() == [5 * sites]
    assert not carried.patterns[5 * sites].any()
    assert carried.quality[5 * sites].tolist() == [60.0, 1.0]


@pytest.mark.parametrize("steps", [5, 11, 12, 30])
def test_partly_computed_steps_are_carried_as_they_are(steps: int) -> None:
    patterns = step_patterns(2)
    plan = Plan.empty(24, 12)
    plan.patterns[5] = [0, 1, 1, 5, 2, 2, 0, 3, 3, 3, 3, 3]

    carried = carry_plans([Leveled(plan, levels(12))], levels(steps), sites=2)

    row = carried.patterns[5]
    costs = pattern_costs(patterns)[row]
    assert costs.sum() == 5
    assert row[costs > 0].tolist() == [0, 5, 0]
    assert row[-1] == 3, "the steps at the end go on as they did"


@pytest.mark.parametrize("steps", [20, 24, 36])
def test_what_was_evenly_spaced_is_evenly_spaced_again_and_without_its_fits(steps: int) -> None:
    source = made_of((0, 2, 5, 7, 9, 12, 14, 16, 19, 21, 23, 26))

    carried = carry_plans([source], levels(steps), sites=1)

    gaps = np.diff([*nodes_of(carried.patterns[12]), steps])
    assert np.ptp(gaps) <= 1
    assert np.isnan(carried.weights[12]).all()
    assert set(carried.patterns[12, 3:].tolist()) == {Mode.COMPUTE, Mode.FORECAST1}
