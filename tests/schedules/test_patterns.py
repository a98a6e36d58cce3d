import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import spaced_table
from ditcache_rl.schedules.patterns import (
    action_prior,
    affordable_patterns,
    follow,
    known_patterns,
    pattern_costs,
    pattern_numbers,
    step_patterns,
)
from ditcache_rl.types import HISTORY, Mode

C, R, F = int(Mode.COMPUTE), int(Mode.REUSE), int(Mode.FORECAST1)


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
    assert len({pattern.tobytes() for pattern in patterns}) == len(patterns)


@given(st.integers(1, 5), st.data())
def test_the_pattern_of_every_step_is_found(sites: int, data: st.DataObject) -> None:
    patterns = step_patterns(sites)
    numbers = data.draw(st.lists(st.integers(0, len(patterns) - 1), min_size=1, max_size=9))

    assert pattern_numbers(patterns[numbers], patterns).tolist() == numbers


def test_a_step_without_a_pattern_is_named() -> None:
    modes = np.array([[C, C], [C, F], [C, R], [R, C]], dtype=np.int8)

    with pytest.raises(ConfigError, match=r"received step 2 with modes \[0, 1\]"):
        pattern_numbers(modes, step_patterns(2))


@given(st.data(), st.integers(1, 4), st.integers(1, 7))
@settings(max_examples=150)
def test_any_play_by_the_masks_computes_exactly_what_was_asked_for(
    data: st.DataObject, sites: int, steps: int
) -> None:
    computes = data.draw(st.integers(sites, steps * sites), label="computes")
    patterns = step_patterns(sites)
    costs = pattern_costs(patterns)
    spent = 0
    valid = np.zeros((1, sites), dtype=np.int64)

    for step in range(steps):
        (affordable,) = affordable_patterns(
            patterns, left=np.array([computes - spent]), steps_after=np.array([steps - step - 1])
        )
        (known,) = known_patterns(patterns, valid)
        feasible = np.flatnonzero(affordable & known).tolist()
        assert feasible, "an action is left at every step"
        chosen = data.draw(st.sampled_from(feasible), label="pattern")
        spent += int(costs[chosen])
        valid = np.minimum(valid + (patterns[chosen] == Mode.COMPUTE), HISTORY)

    assert spent == computes


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
    ids=["under a tradeoff everything", "spent: what is free", "barely spendable: full compute"],
)
def test_computes_leave_what_can_still_spend_them(
    left: int, steps_after: int, costs: set[int]
) -> None:
    patterns = step_patterns(2)

    (mask,) = affordable_patterns(
        patterns, left=np.array([left]), steps_after=np.array([steps_after])
    )

    assert mask.tolist() == [cost in costs for cost in pattern_costs(patterns).tolist()]


def test_the_prior_prefers_what_the_schedule_wants_and_the_first_tier() -> None:
    prior = action_prior(np.array([3, 1]), 4, 2, sharpness=5.0)

    assert prior.tolist() == [[0, 0, 0, 5, 10, 0], [0, 5, 0, 0, 10, 0]]


def played(scheduled: list[int], departures: dict[int, int]) -> list[int]:
    """Follow a schedule of one site, except at some steps."""
    wanted = follow(step_patterns(1), np.array([scheduled]))
    modes, spent = [], 0
    for step in range(len(scheduled)):
        mode = departures.get(step, int(wanted[0, step, spent]))
        modes.append(mode)
        spent += mode == C
    return modes


@pytest.mark.parametrize(
    ("departures", "expected"),
    [
        ({}, [C, F, R, C, F, R, C, F]),
        ({3: R}, [C, F, R, R, C, R, C, F]),  # left out: made up at once
        ({3: R, 4: R}, [C, F, R, R, R, C, C, F]),
        ({2: C}, [C, F, C, F, F, R, C, F]),  # came early: left out later
        ({1: C, 2: C}, [C, C, C, F, F, R, F, F]),
    ],
    ids=["none", "left out", "twice left out", "early", "twice early"],
)
def test_a_departure_moves_a_compute_and_changes_nothing_else(
    departures: dict[int, int], expected: list[int]
) -> None:
    assert played([C, F, R, C, F, R, C, F], departures) == expected


@pytest.mark.parametrize("sites", [1, 3])
def test_a_schedule_that_is_kept_to_is_followed_exactly(sites: int) -> None:
    patterns = step_patterns(sites)
    table = spaced_table(np.linspace(1, 0, 8), sites)
    scheduled = np.stack([pattern_numbers(one.schedule.modes, patterns) for one in table.values()])
    followed, rows = follow(patterns, scheduled), np.arange(len(scheduled))
    spent = np.zeros(len(scheduled), dtype=np.int64)

    for step in range(7):
        wanted = followed[rows, step, spent]
        np.testing.assert_array_equal(wanted, scheduled[:, step])
        spent += pattern_costs(patterns)[wanted]
