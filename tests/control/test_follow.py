import numpy as np
import pytest

from ditcache_rl.schedules.patterns import follow, pattern_costs, step_patterns
from ditcache_rl.search import spaced_plan
from ditcache_rl.types import Mode

C, R, F = int(Mode.COMPUTE), int(Mode.REUSE), int(Mode.FORECAST1)


def played(plan: list[int], departures: dict[int, int]) -> list[int]:
    """Follow a plan of one site, except at some steps."""
    wanted = follow(step_patterns(1), np.array([plan]))
    modes, spent = [], 0
    for step in range(len(plan)):
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
def test_a_plan_that_is_kept_to_is_followed_exactly(sites: int) -> None:
    patterns = step_patterns(sites)
    plan = spaced_plan(7, sites).patterns[sites:]
    table, rows = follow(patterns, plan), np.arange(len(plan))
    spent = np.zeros(len(plan), dtype=np.int64)

    for step in range(7):
        wanted = table[rows, step, spent]
        np.testing.assert_array_equal(wanted, plan[:, step])
        spent += pattern_costs(patterns)[wanted]
