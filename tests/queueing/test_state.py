import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ConfigError
from ditcache_rl.queueing import TickCosts
from ditcache_rl.queueing.state import finish_s
from tests.kit.queueing import BATCHY, LINEAR, STEPS, queue


def test_rows_that_wait_for_each_other_share_every_round() -> None:
    rows, _ = finish_s(
        queue((1, 0, 99.0), (1, 0, 99.0)),
        np.array([[1, 3]]),
        np.array([2]),
        BATCHY,
        STEPS,
        together=True,
    )

    # One round of two rows, then two rounds of one.
    assert rows.tolist() == [[4.0, 4.0 + 3.0 + 3.0]]


def test_a_request_that_waits_begins_when_a_row_ends() -> None:
    rows, waiting = finish_s(
        queue((1, 0, 99.0), (1, 0, 99.0), waiting=(99.0,)),
        np.array([[1, 3]]),
        np.array([2]),
        BATCHY,
        STEPS,
        together=True,
    )

    assert rows.tolist() == [[4.0, 12.0]]
    assert waiting[0, 0] == 12.0  # in the second and third round


def test_rows_that_do_not_wait_take_a_tick_for_every_step() -> None:
    rows, _ = finish_s(
        queue((2, 0, 99.0), (0, 0, 99.0)),
        np.array([[1, 4]]),
        np.array([2]),
        LINEAR,
        STEPS,
        together=False,
    )

    # Two ticks in which the first row computes at every other one, two of the second row alone.
    assert rows[0] == pytest.approx([3.0, 5.0])


def test_rows_that_are_not_there_take_no_time() -> None:
    rows, _ = finish_s(
        queue((1, 0, 99.0)), np.array([[2, 3]]), np.array([2]), LINEAR, STEPS, together=True
    )

    assert rows.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("together", [False, True])
@given(data=st.data())
def test_what_is_foretold_is_what_ticks_add_up_to(data: st.DataObject, together: bool) -> None:
    step = [data.draw(st.integers(0, STEPS - 1)) for _ in range(2)]
    waiting = data.draw(st.integers(0, 3))
    state = queue(*((one, 0, 99.0) for one in step), waiting=(99.0,) * waiting)
    computes = [data.draw(st.integers(0, STEPS - one)) for one in step]
    fresh = data.draw(st.integers(1, STEPS))

    rows, others = finish_s(
        state, np.array([computes]), np.array([fresh]), BATCHY, STEPS, together=together
    )

    lasts = computes if together else [STEPS - one for one in step]
    shares = [1.0, 1.0] if together else [c / n for c, n in zip(computes, lasts, strict=True)]
    new_lasts, new_share = (fresh, 1.0) if together else (STEPS, fresh / STEPS)
    until = [0.0]
    for tick in range(4 * STEPS):
        over = [tick >= last for last in lasts]
        busy = sum(share for share, done in zip(shares, over, strict=True) if not done)
        busy += min(waiting, sum(over)) * new_share
        until.append(until[-1] + float(BATCHY.mean_s(np.array(busy))))
    assert rows[0] == pytest.approx([until[last] for last in lasts])
    begins = [sorted(lasts)[place % 2] + new_lasts * (place // 2) for place in range(waiting)]
    assert others[0] == pytest.approx([until[begin + new_lasts] for begin in begins])


def test_grants_side_by_side_are_foretold_as_each_alone() -> None:
    state = queue((1, 0, 99.0), (2, 0, 99.0), waiting=(99.0,) * 3)
    computes, fresh = np.array([[[1, 2]], [[3, 1]]]), np.array([[2], [4]])

    rows, waiting = finish_s(state, computes, fresh, BATCHY, STEPS, together=True)

    for one, new, at in zip(computes, fresh, range(2), strict=True):
        alone = finish_s(state, one, new, BATCHY, STEPS, together=True)
        assert (rows[at] == alone[0]).all()
        assert (waiting[at] == alone[1]).all()


def test_a_tick_costs_its_call_and_its_rows() -> None:
    ticks = TickCosts.affine(3, 3.0, 0.5)

    assert ticks.compute_s.tolist() == [0.0, 3.5, 4.0, 4.5]
    assert (ticks.rows, ticks.image_s(4)) == (3, 14.0)
    assert ticks.capacity(4) == 3 / 18.0
    with pytest.raises(ConfigError, match="rows >= 1"):
        TickCosts.affine(0, 1.0, 1.0)
