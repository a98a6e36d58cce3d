import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditcache_rl.control.patterns import (
    action_prior,
    feasible_patterns,
    pattern_costs,
    step_patterns,
)
from ditcache_rl.types import HISTORY, Mode


def test_patterns_of_one_site_are_the_modes() -> None:
    assert step_patterns(1).tolist() == [[mode] for mode in Mode]


def test_patterns_of_three_sites_compute_from_either_end() -> None:
    assert step_patterns(3).tolist() == [
        [0, 0, 0],
        [1, 1, 1],
        [2, 2, 2],
        [3, 3, 3],
        [0, 2, 2],
        [2, 2, 0],
        [0, 0, 2],
        [2, 0, 0],
    ]


@given(st.integers(1, 12))
def test_every_cost_up_to_all_sites_has_a_pattern_and_no_pattern_comes_twice(sites: int) -> None:
    patterns = step_patterns(sites)

    assert set(pattern_costs(patterns).tolist()) == set(range(sites + 1))
    assert len({row.tobytes() for row in patterns}) == len(patterns)


@given(st.data(), st.integers(1, 4), st.integers(1, 7))
@settings(max_examples=150)
def test_any_play_by_the_masks_spends_exactly_the_budget(
    data: st.DataObject, sites: int, steps: int
) -> None:
    budget = data.draw(st.integers(sites, steps * sites), label="budget")
    patterns = step_patterns(sites)
    costs = pattern_costs(patterns)
    spent = 0
    valid = np.zeros((1, sites), dtype=np.int64)

    for step in range(steps):
        (mask,) = feasible_patterns(
            patterns,
            left=np.array([budget - spent]),
            steps_after=steps - step - 1,
            valid=valid,
        )
        feasible = np.flatnonzero(mask).tolist()
        assert feasible, "an action is left at every step"
        chosen = data.draw(st.sampled_from(feasible), label="pattern")
        spent += int(costs[chosen])
        valid = np.minimum(valid + (patterns[chosen] == Mode.COMPUTE), HISTORY)

    assert spent == budget


@given(st.data(), st.integers(1, 4), st.integers(0, 5))
def test_rows_are_masked_one_by_one(data: st.DataObject, sites: int, steps_after: int) -> None:
    patterns = step_patterns(sites)
    left = data.draw(st.lists(st.integers(-1, 12), min_size=3, max_size=3), label="left")
    counts = st.lists(st.integers(0, HISTORY), min_size=3 * sites, max_size=3 * sites)
    valid = np.array(data.draw(counts, label="valid")).reshape(3, sites)

    together = feasible_patterns(
        patterns, left=np.array(left), steps_after=steps_after, valid=valid
    )

    for row in range(3):
        alone = feasible_patterns(
            patterns,
            left=np.array(left[row : row + 1]),
            steps_after=steps_after,
            valid=valid[[row]],
        )
        assert np.array_equal(alone[0], together[row])


@pytest.mark.parametrize("known", range(HISTORY + 1))
def test_one_residual_opens_every_forecast_as_the_runner_lowers_the_order(known: int) -> None:
    (mask,) = feasible_patterns(
        step_patterns(1), left=np.array([-1]), steps_after=5, valid=np.array([[known]])
    )

    assert mask.tolist() == [mode == Mode.COMPUTE or known > 0 for mode in Mode]


def test_a_mixed_pattern_needs_one_residual_where_it_does_not_compute() -> None:
    patterns = step_patterns(2)

    (mask,) = feasible_patterns(
        patterns, left=np.array([-1]), steps_after=5, valid=np.array([[0, 1]])
    )

    # Only compute all, and computing the first site, do without the first site's history.
    assert patterns[mask].tolist() == [[0, 0], [0, 2]]


def test_without_a_budget_only_the_history_limits() -> None:
    patterns = step_patterns(2)

    mask = feasible_patterns(
        patterns, left=np.array([-1]), steps_after=0, valid=np.full((1, 2), HISTORY)
    )

    assert mask.all()


def test_a_spent_budget_leaves_only_what_costs_nothing() -> None:
    patterns = step_patterns(2)

    (mask,) = feasible_patterns(
        patterns, left=np.array([0]), steps_after=3, valid=np.full((1, 2), HISTORY)
    )

    assert np.array_equal(mask, pattern_costs(patterns) == 0)


def test_a_budget_that_can_barely_be_spent_leaves_only_full_compute() -> None:
    patterns = step_patterns(2)

    (mask,) = feasible_patterns(
        patterns, left=np.array([8]), steps_after=3, valid=np.full((1, 2), HISTORY)
    )

    assert patterns[mask].tolist() == [[0, 0]]


def test_the_prior_prefers_the_plan_and_the_first_tier() -> None:
    plan = np.array([[0, 3], [0, 1]])

    prior = action_prior(plan[:, 1], 4, 2, sharpness=5.0)

    assert prior.tolist() == [[0, 0, 0, 5, 10, 0], [0, 5, 0, 0, 10, 0]]
