import numpy as np
import pytest

from ditcache_rl.errors import ConfigError
from ditcache_rl.queueing import (
    ChosenAtAdmission,
    FairShare,
    FittingPrice,
    FixedSchedule,
    Machines,
    PressurePrice,
    Rule,
    TickCosts,
    Traffic,
    serve,
)
from ditcache_rl.queueing.machines import PLACES
from tests.kit.queueing import BATCHY, LINEAR, STEPS, fronts

FRONTS = fronts()


def traffic(*requests: tuple[float, float]) -> Traffic:
    """Let requests come to one machine, each with its arrival and its deadline."""
    arrival_s, deadline_s = np.array(requests).T
    return Traffic(arrival_s[None], deadline_s[None])


def drawn(load: float, ticks: TickCosts) -> Traffic:
    """Draw bursts for twenty machines."""
    return Traffic.drawn(
        np.random.default_rng(3),
        20,
        30,
        rate=load * ticks.capacity(STEPS),
        image_s=ticks.image_s(STEPS),
    )


def rules(ticks: TickCosts, *, together: bool) -> list[Rule]:
    """List one of each kind."""
    share = FairShare(ticks, 0.8, STEPS)
    return [
        FixedSchedule(3),
        share,
        ChosenAtAdmission(share),
        PressurePrice(FRONTS, ticks, together, 2.0, 1.0),
        FittingPrice(FRONTS, ticks, together),
    ]


def test_a_request_alone_is_drawn_by_its_schedule() -> None:
    served = serve(traffic((5.0, 99.0)), FixedSchedule(2), FRONTS, LINEAR, together=True)

    # Steps 0 and 2 compute: two gaps of one step, a second for each compute.
    assert served.finish_s.tolist() == [[7.0]]
    assert served.computes.tolist() == [[2]]
    assert served.psnr_db[0, 0] == pytest.approx(50.0 - 10.0 * np.log(1 + 2))


def test_rows_that_are_due_at_different_steps_wait_for_each_other_behind_a_barrier() -> None:
    both = traffic((0.0, 99.0), (0.5, 99.0))

    apart = serve(both, FixedSchedule(2), FRONTS, BATCHY, together=False)
    together = serve(both, FixedSchedule(2), FRONTS, BATCHY, together=True)

    # The second comes while the first computes step 0. Apart, they compute at 0, 3, 6 and 9
    # seconds; together the first estimates, and its next compute is the first of the second.
    assert apart.finish_s.tolist() == [[9.0, 12.0]]
    assert together.finish_s.tolist() == [[7.0, 10.0]]
    assert (together.psnr_db == apart.psnr_db).all()


def test_estimates_take_their_time() -> None:
    ticks = TickCosts(np.array([0.0, 1.0, 2.0]), estimate_s=0.25)

    served = serve(traffic((0.0, 99.0)), FixedSchedule(2), FRONTS, ticks, together=True)

    assert served.finish_s.tolist() == [[2.5]]


def test_a_row_without_time_is_finished_without_computing() -> None:
    served = serve(traffic((0.0, 2.5)), FixedSchedule(4), FRONTS, LINEAR, together=True)

    assert served.computes.tolist() == [[2]]
    assert served.finish_s.tolist() == [[2.0]]
    assert served.psnr_db[0, 0] == pytest.approx(50.0 - 10.0 * np.log(1 + 2**2))


def test_a_request_that_cannot_be_in_time_is_dropped() -> None:
    served = serve(
        traffic((0.0, 99.0), (1.0, 1.5), (2.0, 99.0)),
        FixedSchedule(1),
        FRONTS,
        LINEAR,
        together=True,
    )

    assert served.psnr_db[0, 1] == 0.0
    assert np.isinf(served.finish_s).tolist() == [[False, True, False]]


def test_requests_that_wait_begin_in_the_order_of_their_deadlines() -> None:
    late_first = traffic((0.0, 90.0), (0.0, 91.0), (0.1, 99.0), (0.2, 95.0))

    finish_s = serve(late_first, FixedSchedule(4), FRONTS, LINEAR, together=True).finish_s[0]

    assert finish_s[3] <= finish_s[2]
    queue = Machines(late_first, FRONTS, LINEAR, together=True)
    queue.tick(np.full((1, 2), 4))
    assert queue.queue.waiting_s[0, :2].tolist() == [95.0, 99.0]


def test_who_finds_no_place_is_refused() -> None:
    crowd = traffic(*[(0.0, 1e6)] * (2 + PLACES + 3))

    served = serve(crowd, FixedSchedule(1), FRONTS, LINEAR, together=True)

    # Two rows are free only when all that come at once have found a place, or none.
    assert np.isinf(served.finish_s).sum() == 5


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("load", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("ticks", [LINEAR, BATCHY], ids=["linear", "batchy"])
def test_every_request_is_served_in_time_or_dropped(
    ticks: TickCosts, load: float, together: bool
) -> None:
    requests = drawn(load, ticks)

    for rule in rules(ticks, together=together):
        served = serve(requests, rule, FRONTS, ticks, together=together)
        dropped = np.isinf(served.finish_s)
        assert (served.psnr_db[dropped] == 0.0).all()
        assert (served.computes[dropped] == 0).all()
        assert (served.computes[~dropped] >= 1).all()
        on_time = served.psnr_db != 0.0
        assert (served.finish_s <= requests.deadline_s + 1e-4)[on_time].all()
        # No machine works faster than full batches of its computes.
        least_s = served.computes.sum(axis=1) * ticks.compute_s[-1] / ticks.rows
        last_s = np.where(dropped, 0.0, served.finish_s).max(axis=1)
        assert (last_s - requests.arrival_s[:, 0] >= least_s - 1e-6).all()


@pytest.mark.parametrize("together", [False, True])
def test_a_rule_that_fits_drops_nobody(together: bool) -> None:
    requests = drawn(1.0, LINEAR)

    served = serve(
        requests, FittingPrice(FRONTS, LINEAR, together), FRONTS, LINEAR, together=together
    )

    assert np.isfinite(served.finish_s).all()
    assert (served.psnr_db != 0.0).all()


def test_machines_side_by_side_do_not_know_of_each_other() -> None:
    requests = drawn(2.0, BATCHY)
    rule = FittingPrice(FRONTS, BATCHY, together=True)

    beside = serve(requests, rule, FRONTS, BATCHY, together=True)
    third = Traffic(*(part[2:3] for part in requests))

    alone = serve(third, rule, FRONTS, BATCHY, together=True)
    for one, all_of_them in zip(alone, beside, strict=True):
        assert (one == all_of_them[2:3]).all()


def test_a_machine_that_begins_anew_forgets() -> None:
    requests, rule = drawn(2.0, LINEAR), FixedSchedule(3)
    machines = Machines(requests, FRONTS, LINEAR, together=True)
    for _ in range(50):
        machines.tick(rule.grant(machines.queue))

    machines.restart(np.array([4]), Traffic(*(part[4:5] for part in requests)))
    while not machines.done.all():
        machines.tick(rule.grant(machines.queue))

    expected = serve(requests, rule, FRONTS, LINEAR, together=True)
    for own, other in zip(machines.served, expected, strict=True):
        assert (own == other).all()


def test_bursts_bring_three_times_the_mean_and_calm_half() -> None:
    requests = Traffic.drawn(np.random.default_rng(0), 200, 200, rate=2.0, image_s=5.0)

    gaps_s = np.diff(requests.arrival_s, axis=1)
    assert 1 / gaps_s.mean() == pytest.approx(2.0, rel=0.1)
    # Poisson arrivals of one rate vary as much as their mean; these come in bursts.
    assert gaps_s.std() / gaps_s.mean() > 1.2
    there_s = (requests.deadline_s - requests.arrival_s) / 5.0
    assert (there_s.min() >= 1.2, there_s.max() <= 4.0) == (True, True)


def test_traffic_without_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Traffic.drawn(np.random.default_rng(0), 1, 0, rate=1.0, image_s=1.0)
