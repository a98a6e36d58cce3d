import numpy as np
import pytest

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import HISTORY, Modes, Tier
from tests.kit.laws import Walk, check_controller, random_signals

SHARED = np.array([[0, 0], [1, 0], [2, 1], [0, 3]], dtype=np.int8)
BY_ROW = np.stack([SHARED, np.zeros_like(SHARED), SHARED], axis=1)


@pytest.mark.parametrize("table", [SHARED, BY_ROW])
def test_a_static_schedule_is_a_controller(table: Modes) -> None:
    check_controller(lambda: StaticSchedule.of(table), steps=4, rows=3, sites=2)


@pytest.mark.parametrize("table", [SHARED, BY_ROW])
def test_a_static_schedule_decides_its_table(table: Modes) -> None:
    walk = Walk(StaticSchedule.of(table), random_signals(steps=4, rows=3, sites=2), range(3))

    walk.to_the_end()

    for step, decision in enumerate(walk.decisions):
        assert np.array_equal(decision.modes, np.broadcast_to(table[step], (3, 2)))
        assert (decision.tiers == Tier.DEVICE).all()


def test_a_static_schedule_keeps_what_it_computes_where_it_says() -> None:
    tiers = np.array([[0, 1], [3, 3], [2, 1], [1, 0]], dtype=np.int8)
    walk = Walk(
        StaticSchedule(Schedule(SHARED, tiers=tiers), Schedule(SHARED)),
        random_signals(steps=4, rows=2, sites=2),
        range(2),
    )

    walk.to_the_end()

    for step, decision in enumerate(walk.decisions):
        assert decision.tiers.tolist() == [tiers[step].tolist(), [Tier.DEVICE] * 2]


@pytest.mark.parametrize(
    "table",
    [
        np.array([[0, 1], [0, 0]], dtype=np.int8),
        np.array([[[0], [1]], [[0], [0]]], dtype=np.int8),
        np.zeros((0, 1), dtype=np.int8),
        np.zeros(3, dtype=np.int8),
    ],
)
def test_a_table_that_reuses_at_the_first_step_or_is_none_is_refused(table: Modes) -> None:
    with pytest.raises(ConfigError, match="whose first step computes"):
        StaticSchedule.of(table)


def test_schedules_of_other_steps_or_sites_are_no_batch() -> None:
    one, other = Schedule(SHARED), Schedule(SHARED[:3])

    for schedules in ([], [one, other], [one, Schedule(SHARED[:, :1])]):
        with pytest.raises(ConfigError, match="of the same steps and sites, received shapes"):
            StaticSchedule(*schedules)


def test_one_schedule_is_for_all_rows_and_several_are_for_one_each() -> None:
    schedules = [Schedule(BY_ROW[:, row]) for row in range(3)]
    signals = random_signals(steps=4, rows=3, sites=2)

    for several in (StaticSchedule(*schedules), StaticSchedule.of(BY_ROW)):
        assert several.schedules == tuple(schedules)
        Walk(several, signals, range(3))
        np.testing.assert_array_equal(several.planned(), BY_ROW)
    shared = StaticSchedule(schedules[0])
    Walk(shared, signals, range(3))
    np.testing.assert_array_equal(shared.planned(), np.stack([SHARED] * 3, axis=1))


def test_coefficients_belong_to_one_site_and_every_step() -> None:
    one = SHARED[:, :1]
    coefficients = np.ones((4, HISTORY))

    StaticSchedule.of(one, coefficients)
    for modes, wrong in (
        (SHARED, coefficients),
        (one, coefficients[:3]),
        (one[:, None], coefficients),
        (one[:, None], coefficients[:, None].repeat(2, axis=1)),
    ):
        with pytest.raises(ConfigError, match="expected coefficients of shape"):
            StaticSchedule.of(modes, wrong)


def test_rows_have_coefficients_of_their_own_and_may_have_none() -> None:
    modes = np.array([[0, 0, 0], [1, 1, 0], [0, 2, 2]], dtype=np.int8)[..., None]
    coefficients = np.full((3, 3, HISTORY), np.nan)
    coefficients[1, 0], coefficients[2, 2] = [1.5, 0, 0], [2.0, -1.0, 0]
    walk = Walk(
        StaticSchedule.of(modes, coefficients), random_signals(steps=3, rows=3, sites=1), range(3)
    )

    walk.to_the_end()

    first, *later = (decision.fitted for decision in walk.decisions)
    assert first is None
    for step, fitted in enumerate(later, 1):
        assert fitted is not None
        np.testing.assert_array_equal(fitted.coefficients, coefficients[step])
    assert fitted is not None
    assert fitted.steps.tolist() == [[0, -1, -1], [0, -1, -1], [1, 0, -1]]


def test_without_coefficients_nothing_is_fitted() -> None:
    walk = Walk(StaticSchedule.of(SHARED), random_signals(steps=4, rows=1, sites=2), [0])

    walk.to_the_end()

    assert [decision.fitted for decision in walk.decisions] == [None] * 4


@pytest.mark.parametrize(
    ("table", "steps", "rows", "sites"),
    [(SHARED, 5, 3, 2), (SHARED, 4, 3, 1), (BY_ROW, 4, 2, 2)],
)
def test_a_request_that_the_table_does_not_fit_is_refused(
    table: Modes, steps: int, rows: int, sites: int
) -> None:
    signals = random_signals(steps=steps, rows=rows, sites=sites)

    with pytest.raises(ConfigError) as caught:
        Walk(StaticSchedule.of(table), signals, range(rows))

    assert f"received {(steps, rows, sites)}" in str(caught.value)
