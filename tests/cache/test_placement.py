import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.cache import NEVER, Habit, next_uses
from ditcache_rl.types import HISTORY, Mode


def walk(column: list[int]) -> list[list[int]]:
    """Follow one site step by step: for each step, when each place is read next."""
    steps = len(column)
    expected = []
    for step in range(steps):
        uses = []
        for start in range(HISTORY):
            place, found = start, NEVER
            for later in range(step + 1, steps):
                if column[later] == Mode.COMPUTE:
                    place += 1
                    if place >= HISTORY:
                        break
                elif place < column[later]:
                    found = later
                    break
            uses.append(found)
        expected.append(uses)
    return expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_next_uses_follow_a_site_step_by_step(column: list[int]) -> None:
    modes = np.array(column, dtype=np.int8)[:, None, None]

    found = next_uses(modes)[:, 0]

    assert found.tolist() == walk(column)
    used = found < NEVER
    assert (used[:, :-1] >= used[:, 1:]).all(), "a place is used only if those before it are"


def test_rows_that_differ_keep_what_any_of_them_reads() -> None:
    modes = np.array([[[0], [0]], [[1], [0]], [[0], [1]]], dtype=np.int8)

    assert next_uses(modes)[:, 0, 0].tolist() == [1, 2, NEVER]


def test_a_site_that_refreshes_regularly_is_expected_to_go_on_so() -> None:
    habit = Habit()
    for step in range(20):
        habit.visit(step % 4 != 0)
        expected = (step + 1) % 4 != 0
        if step >= 8:
            assert (habit.chance > 0.5) == expected, step


@given(st.lists(st.booleans(), max_size=30))
def test_a_chance_is_never_certain(visits: list[bool]) -> None:
    habit = Habit()
    for read in visits:
        habit.visit(read)

    assert 0 < habit.chance < 1
