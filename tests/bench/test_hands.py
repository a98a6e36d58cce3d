import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditcache_rl.bench import dealt
from ditcache_rl.schedules import Schedule, spaced

#: Computes of the rows of a batch, as the first one of `shapes` was drawn.
BATCH = [6, 15, 4, 6, 6, 6, 9, 15, 15, 15, 3, 4, 15, 6, 6, 5]
BATCH += [9, 9, 6, 9, 3, 5, 4, 3, 9, 4, 4, 7, 5, 7, 15, 6]


def followed(computes: list[int]) -> list[Schedule]:
    return [spaced(28, 1, count) for count in computes]


@given(st.lists(st.integers(1, 28), min_size=1, max_size=24), st.integers(1, 6))
def test_every_row_is_dealt_once_and_each_hand_gets_its_share_of_every_schedule(
    computes: list[int], hands: int
) -> None:
    rows = dealt(followed(computes), hands)

    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(computes)))
    assert all((np.diff(own) > 0).all() for own in rows)
    assert len(rows) == min(hands, len(computes))
    for count in set(computes):
        shares = [sum(computes[row] == count for row in own) for own in rows]
        assert max(shares) - min(shares) <= 1


def test_no_hand_waits_long_for_another_at_any_step() -> None:
    """All take a step together: cut in halves, this batch took a quarter longer than its work."""
    schedules = followed(BATCH)
    due = np.stack([one.costs for one in schedules])  # (rows, steps)

    def took_x(parts: list[NDArray[np.int64]]) -> float:
        """Sum the longest part of each step, over an equal share of all work."""
        longest = np.max([due[own].sum(axis=0) for own in parts], axis=0)
        return float(longest.sum() * len(parts) / due.sum())

    assert took_x(np.split(np.arange(32), 2)) > 1.25
    assert took_x(dealt(schedules, 2)) < 1.05
    assert took_x(dealt(schedules, 4)) < took_x(np.split(np.arange(32), 4)) - 0.2
