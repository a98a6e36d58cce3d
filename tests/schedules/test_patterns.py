import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditcache_rl.schedules.patterns import (
    action_prior,
    affordable_patterns,
    known_patterns,
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
        (affordable,) = affordable_patterns(
            patterns, left=np.array([budget - spent]), steps_after=np.array([steps - step - 1])
        )
        (known,) = known_patterns(patterns, valid)
        feasible = np.flatnonzero(affordable & known).tolist()
        assert feasible, "an action is left at every step"
        chosen = data.draw(st.sampled_from(feasible), label="pattern")
        spent += int(costs[chosen])
        valid = np.minimum(valid + (patterns[chosen] == Mode.COMPUTE), HISTORY)

    assert spent == budget


@given(st.integers(1, 4), st.integers(1, 6))
def test_a_table_over_all_steps_says_what_every_step_says(sites: int, steps: int) -> None:
    patterns = step_patterns(sites)
    left, after = np.arange(-1, steps * sites + 1), np.arange(steps)

    table = affordable_patterns(patterns, left=left, steps_after=after[:, None])

    for place, number in np.ndindex(steps, len(left)):
        (alone,) = affordable_patterns(patterns, left=left[[number]], steps_after=after[[place]])
        assert np.array_equal(table[place, number], alone)


@pytest.mark.parametrize("known", range(HISTORY + 1))
def test_one_residual_opens_every_forecast_as_the_runner_lowers_the_order(known: int) -> None:
    (mask,) = known_patterns(step_patterns(1), np.array([[known]]))

    assert mask.tolist() == [mode == Mode.COMPUTE or known > 0 for mode in Mode]


def test_a_mixed_pattern_needs_one_residual_where_it_does_not_compute() -> None:
    patterns = step_patterns(2)

    (mask,) = known_patterns(patterns, np.array([[0, 1]]))

    # Only compute all, and computing the first site, do without the first site's history.
    assert patterns[mask].tolist() == [[0, 0], [0, 2]]


@pytest.mark.parametrize(
    ("left", "steps_after", "costs"),
    [
        (-1, 0, {0, 1, 2}),
        (0, 3, {0}),
        (8, 3, {2}),
    ],
    ids=["without a budget everything", "spent: what is free", "barely spendable: full compute"],
)
def test_a_budget_leaves_what_can_still_spend_it(
    left: int, steps_after: int, costs: set[int]
) -> None:
    patterns = step_patterns(2)

    (mask,) = affordable_patterns(
        patterns, left=np.array([left]), steps_after=np.array([steps_after])
    )

    assert mask.tolist() == [cost in costs for cost in pattern_costs(patterns).tolist()]


def test_the_prior_prefers_the_plan_and_the_first_tier() -> None:
    plan = np.array([[0, 3], [0, 1]])

    prior = action_prior(plan[:, 1], 4, 2, sharpness=5.0)

    assert prior.tolist() == [[0, 0, 0, 5, 10, 0], [0, 5, 0, 0, 10, 0]]
