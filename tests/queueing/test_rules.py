import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.queueing import (
    ChosenAtAdmission,
    FairShare,
    FittingPrice,
    FixedSchedule,
    PressurePrice,
    at_price,
    pressure,
)
from ditcache_rl.queueing.rules import PRICES_DB
from tests.kit.queueing import BATCHY, LINEAR, STEPS, fronts, queue

FRONTS = fronts()
DEADLINES = st.floats(1.0, 20.0)


def level(waiting: tuple[float, ...], first_s: float, *, together: bool) -> int:
    """Return the fitting price of a machine with two rows, as a place."""
    state = queue((1, 0, first_s), (0, 0, 12.0), waiting=waiting)
    rule = FittingPrice(FRONTS, LINEAR, together)
    return int(rule.levels(state, state.psnr_db(FRONTS))[0])


def test_a_fixed_schedule_gives_what_it_has_left() -> None:
    state = queue((1, 0, 9.0), (0, 0, 9.0))

    assert FixedSchedule(3).grant(state).tolist() == [[2, 3]]


def test_a_fair_share_is_that_of_a_round_of_all_requests() -> None:
    state = queue((1, 0, 6.0), (1, 0, 14.0))

    # A round of both takes 4 seconds: one fits into 6 seconds, three into 14.
    assert FairShare(BATCHY, 1.0, STEPS).grant(state).tolist() == [[1, 3]]
    # With two more that wait, every round is two.
    crowded = queue((1, 0, 6.0), (1, 0, 14.0), waiting=(20.0, 20.0))
    assert FairShare(BATCHY, 1.0, STEPS).grant(crowded).tolist() == [[0, 1]]


def test_what_was_chosen_at_admission_stays() -> None:
    state = queue((1, 0, 6.0), (0, 0, 14.0))
    state.left[0, 0] = 2

    assert ChosenAtAdmission(FairShare(BATCHY, 1.0, STEPS)).grant(state).tolist() == [[2, 3]]


def test_a_compute_is_bought_if_it_is_worth_its_price() -> None:
    gains = np.array([-np.inf, 10.0, 15.0, 17.0, 17.5])

    bought = [int(at_price(gains, np.array(price))) for price in (0.1, 1.0, 3.0, 9.0)]

    assert bought == [4, 3, 2, 1]


@given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=6), st.floats(0.0, 9.0), st.floats(0, 9))
def test_at_a_higher_price_nothing_more_is_bought(
    worth: list[float], price: float, more: float
) -> None:
    low, high = (at_price(np.array(worth), np.array(p)) for p in (price, price + more))

    assert high <= low


def test_the_fitting_price_is_the_lowest_at_which_both_are_in_time() -> None:
    rule = FittingPrice(FRONTS, LINEAR, together=True)

    # Three steps are left of the first row and four of the second. Computing all of them ends
    # the first after three rounds of two, 6 seconds, and the second a second later.
    assert rule.grant(queue((1, 0, 6.0), (0, 0, 7.0))).tolist() == [[3, 4]]
    # Half a second less, and a compute of either is too dear.
    short = rule.grant(queue((1, 0, 6.0), (0, 0, 6.5)))
    assert short.sum() < 7
    assert pressure(
        queue((1, 0, 6.0), (0, 0, 6.5)), short, np.array([1]), LINEAR, STEPS, together=True
    ) <= [1.0]


@given(st.lists(DEADLINES, max_size=2), DEADLINES, DEADLINES, st.booleans())
def test_the_fitting_price_grows_with_requests_and_haste(
    waiting: list[float], another: float, first_s: float, together: bool
) -> None:
    before = level(tuple(sorted(waiting)), first_s, together=together)

    assert level(tuple(sorted([*waiting, another])), first_s, together=together) >= before
    assert level(tuple(sorted(waiting)), 0.9 * first_s, together=together) >= before


def test_if_nothing_fits_the_highest_price_is_asked() -> None:
    assert level((1e-3,), 9.0, together=True) == len(PRICES_DB) - 1


def test_a_least_price_is_asked_of_an_empty_machine_too() -> None:
    state = queue((0, 0, 1e6))
    dear = FittingPrice(FRONTS, LINEAR, together=True, least_db=20.0)

    assert FittingPrice(FRONTS, LINEAR, together=True).grant(state)[0, 0] == STEPS
    assert dear.grant(state)[0, 0] == int(at_price(FRONTS.fresh_db, np.array(20.0)))


def test_the_price_grows_with_the_pressure() -> None:
    rule = PressurePrice(FRONTS, LINEAR, together=True, price_db=3.0, power=2.0)

    calm, busy = (rule.grant(queue((0, 0, end_s), (0, 0, end_s)))[0, 0] for end_s in (40.0, 4.0))

    # Eight seconds of work in 40 or 4: prices of 0.12 and 12 dB.
    expected = [int(at_price(FRONTS.fresh_db, np.array(price))) for price in (0.12, 12.0)]
    assert [calm, busy] == expected
    assert busy < calm


@pytest.mark.parametrize("together", [False, True])
def test_a_machine_without_requests_is_under_no_pressure(together: bool) -> None:
    nothing = np.zeros((1, 2), dtype=np.int64)

    assert pressure(queue(), nothing, np.array([4]), LINEAR, STEPS, together=together) == [0.0]
