import numpy as np
import pytest

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


def test_a_tick_costs_its_call_and_its_rows() -> None:
    ticks = TickCosts.affine(3, 3.0, 0.5)

    assert ticks.compute_s.tolist() == [0.0, 3.5, 4.0, 4.5]
    assert (ticks.rows, ticks.image_s(4)) == (3, 14.0)
    assert ticks.capacity(4) == 3 / 18.0
    with pytest.raises(ConfigError, match="rows >= 1"):
        TickCosts.affine(0, 1.0, 1.0)
