import numpy as np
import pytest

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import HISTORY, Modes, Tier
from tests.kit.laws import Walk, check_controller, random_signals

SHARED = np.array([[0, 0], [1, 0], [2, 1], [0, 3]], dtype=np.int8)
BY_ROW = np.stack([SHARED, np.zeros_like(SHARED), SHARED], axis=1)


@pytest.mark.parametrize("table", [SHARED, BY_ROW])
def test_a_static_schedule_is_a_controller(table: Modes) -> None:
    check_controller(lambda: StaticSchedule(table), steps=4, rows=3, sites=2)


@pytest.mark.parametrize("table", [SHARED, BY_ROW])
def test_a_static_schedule_decides_its_table(table: Modes) -> None:
    walk = Walk(StaticSchedule(table), random_signals(steps=4, rows=3, sites=2), range(3))

    walk.to_the_end()

    for step, decision in enumerate(walk.decisions):
        assert np.array_equal(decision.modes, np.broadcast_to(table[step], (3, 2)))
        assert (decision.tiers == Tier.DEVICE).all()


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
        StaticSchedule(table)


def test_weights_belong_to_one_site_and_every_step() -> None:
    one = SHARED[:, :1]
    weights = np.ones((4, HISTORY))

    StaticSchedule(one, weights)
    for modes, wrong in ((SHARED, weights), (one, weights[:3]), (one[:, None], weights)):
        with pytest.raises(ConfigError, match="expected weights of shape"):
            StaticSchedule(modes, wrong)


@pytest.mark.parametrize(
    ("table", "steps", "rows", "sites"),
    [(SHARED, 5, 3, 2), (SHARED, 4, 3, 1), (BY_ROW, 4, 2, 2)],
)
def test_a_request_that_the_table_does_not_fit_is_refused(
    table: Modes, steps: int, rows: int, sites: int
) -> None:
    signals = random_signals(steps=steps, rows=rows, sites=sites)

    with pytest.raises(ConfigError) as caught:
        Walk(StaticSchedule(table), signals, range(rows))

    assert f"received {(steps, rows, sites)}" in str(caught.value)
