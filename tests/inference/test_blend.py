"""Floors over many requests: the promise is kept, by less compute."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ditcache_rl as dc
from ditcache_rl.config import find_policy
from ditcache_rl.control import EveryK, StaticSchedule
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.inference.blend import PROMISED_SHARE, Turns, cheapest_blend
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.schedules import Reached, ScheduleTable, Scored, share_above, spaced, spaced_table
from ditcache_rl.types import RunInfo
from tests.kit.environment import levels_of, untrained_policy

STEPS = 10


def scored(computes: int, *psnr_db: float) -> Scored:
    """A schedule of a run of ten steps, and what prompts reach under it."""
    values = np.array(psnr_db)
    reached = Reached.of(values, values / 100)
    return Scored(spaced(STEPS, 1, computes), reached=reached)


@given(
    st.lists(st.floats(0, 60, width=32), min_size=1, max_size=40), st.floats(0.125, 60, width=32)
)
def test_a_share_is_that_of_the_prompts_up_to_one_of_them(
    psnr_db: list[float], floor: float
) -> None:
    found = share_above(Reached.of(np.array(psnr_db), np.ones(1)).psnr_db, floor)

    # Percentiles are linear between prompts, and told for every hundredth of them.
    assert abs(found - np.mean(np.array(psnr_db) >= floor)) <= 1 / len(psnr_db) + 0.01


def test_a_share_at_the_floor_of_a_schedule_is_what_floors_promise() -> None:
    psnr_db = np.random.default_rng(0).uniform(20, 50, 64)

    floor = float(np.percentile(psnr_db, 5))

    assert share_above(Reached.of(psnr_db, psnr_db).psnr_db, floor) == pytest.approx(0.95)


@given(
    st.dictionaries(st.integers(1, 9), st.floats(0, 1), min_size=1, max_size=6),
    st.floats(0.95, 1),
)
def test_a_blend_keeps_the_promise_with_no_more_compute(
    shares: dict[int, float], full: float
) -> None:
    shares = {**shares, STEPS: full}
    lines = {n: Scored(spaced(STEPS, 1, n)) for n in shares}

    blend = cheapest_blend((lines[n], share) for n, share in shares.items())

    assert blend is not None
    low, high = blend.cheap.computes, blend.dear.computes
    kept = (1 - blend.dear_share) * shares[low] + blend.dear_share * shares[high]
    assert kept >= PROMISED_SHARE - 1e-9
    assert 0 <= blend.dear_share <= 1
    assert low <= blend.mean_computes <= high
    alone = min(n for n, share in shares.items() if share >= PROMISED_SHARE - 1e-9)
    assert blend.mean_computes <= alone, "a schedule alone is a blend too"


def test_a_blend_is_what_hand_arithmetic_says() -> None:
    known = [(scored(3, 1.0), 0.85), (scored(4, 1.0), 0.98), (scored(2, 1.0), 0.1)]

    blend = cheapest_blend(known)

    # From 0.85 to 0.95 are 10 of the 13 points between: 3 + 10 / 13.
    assert blend is not None
    assert blend.mean_computes == pytest.approx(3 + 10 / 13)
    assert (
        str(blend)
        == "77% of the requests compute 4 of 10 site steps, the others 3: 3.77 in the mean"
    )
    assert cheapest_blend(known[:1]) is None


@pytest.mark.parametrize("share", [0.05, 0.31, 0.5, 0.77, 0.95])
def test_turns_give_every_few_requests_their_share(share: float) -> None:
    turns = Turns()
    dear = np.array([turns.take() < share for _ in range(2000)])

    for window in (20, 100, 1000):
        counts = np.convolve(dear, np.ones(window), "valid")
        # At random the counts of 100 would be off by 10 and more.
        assert np.abs(counts - share * window).max() <= 2.5


def blended(pipe: Any, call: dict[str, Any]) -> Policy:
    """A policy that knows of 2 and 4 computes of 4 what prompts reach."""
    policy = untrained_policy(pipe, call, steps=(4, 6))
    table = policy.tables[4]
    half = Reached.of(np.array([20.0, 40.0]), np.array([0.8, 0.9]))
    lines = {
        2: table[2]._replace(floor_psnr_db=21.0, floor_ssim=0.8, reached=half),
        4: table[4]._replace(
            floor_psnr_db=60.0, floor_ssim=1.0, reached=Reached.of(np.array([60.0]), np.ones(1))
        ),
    }
    measured = table.with_lines(lines)
    return replace(policy, tables={**policy.tables, 4: measured}, safe={4: measured})


def test_requests_follow_two_schedules_by_turns_and_the_summary_says_so(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = blended(tiny_pipe, tiny_call)
    levels = levels_of(tiny_pipe, tiny_call, 4)
    controller = PolicyController(policy, Target(min_psnr=30.0, over="requests"))
    counts = []
    for _ in range(100):
        controller.reset(RunInfo(4, levels, rows=1, sites=1))
        counts.append(int((controller.planned() == 0).sum()))  # type: ignore[union-attr]

    # Half of the prompts reach 30 dB by two computes, all by four: 0.5 + 0.5 * 0.9 = 0.95.
    assert sorted(set(counts)) == [2, 4]
    assert counts.count(4) == pytest.approx(90, abs=2)
    assert any("over requests: 90%" in note for note in controller.notes())
    with dc.cached(tiny_pipe, policy, min_psnr=30.0, over="requests") as run:
        tiny_pipe("a disc", num_inference_steps=4, **tiny_call)
    assert "over requests: 90% of the requests compute 4 of 4 site steps" in run.summary()


def test_every_attachment_begins_the_same(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    policy = blended(tiny_pipe, tiny_call)
    levels = levels_of(tiny_pipe, tiny_call, 4)

    def drawn() -> list[int]:
        controller = PolicyController(policy, Target(min_ssim=0.85, over="requests"))
        counts = []
        for _ in range(30):
            controller.reset(RunInfo(4, levels, rows=1, sites=1))
            counts.append(int((controller.planned() == 0).sum()))  # type: ignore[union-attr]
        return counts

    assert drawn() == drawn()


def test_a_floor_over_every_request_is_what_it_was(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = blended(tiny_pipe, tiny_call)
    levels = levels_of(tiny_pipe, tiny_call, 4)

    for target in (Target(min_psnr=30.0), Target(min_psnr=30.0, over="request")):
        chosen = PolicyController(policy, target).choose(levels, turn=0.99)
        assert isinstance(chosen, StaticSchedule)
        assert chosen.schedules[0].computes == 4
        assert str(target) == "min_psnr=30.0"


def test_what_was_not_measured_is_refused(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    policy, target = untrained_policy(tiny_pipe, tiny_call), Target(min_psnr=30, over="requests")

    with pytest.raises(BudgetError, match="knows what its prompts reach at 4 steps"):
        PolicyController(policy, target).choose(levels_of(tiny_pipe, tiny_call, 4))
    with pytest.raises(BudgetError, match="5 steps"):
        PolicyController(policy, target).choose(levels_of(tiny_pipe, tiny_call, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 2.0, "over": "requests"}, "expected min_psnr or min_ssim beside it"),
        ({"over": "requests"}, "received speedup=2.0"),
        ({"min_psnr": 30.0, "over": "Requests"}, "received 'Requests'. Did you mean 'requests'?"),
        ({"min_psnr": 30.0, "over": None}, "over must be one of request, requests"),
        (
            {"min_psnr": 30.0, "over": "requests", "adapt": dc.Bandit(min_psnr=30)},
            "expected adapt or over='requests'",
        ),
    ],
)
def test_a_promise_that_makes_no_sense_is_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dc.attach(tiny_pipe, blended(tiny_pipe, tiny_call), **options)


def test_a_controller_promises_nothing_over_requests(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match="expected no target, received over='requests'"):
        dc.attach(tiny_pipe, EveryK(2), over="requests")


def test_what_prompts_reach_stays_with_a_table() -> None:
    table = spaced_table(np.linspace(1, 0, STEPS + 1), 1)
    known = table.with_lines({3: scored(3, 20.0, 30.0, 50.0)})

    again = ScheduleTable.from_arrays(known.to_arrays())

    assert again[3].reached == known[3].reached
    assert [n for n, one in again.items() if one.reached is not None] == [3]
    assert all(one.reached is None for one in known.without_floors().values())
    assert "reached" not in table.to_arrays()
    for damage in (np.nan, 100.0):
        arrays = known.to_arrays()
        arrays["reached"][list(known).index(3), 0, 50] = damage
        with pytest.raises(ConfigError, match="percentiles that never fall"):
            ScheduleTable.from_arrays(arrays)


@pytest.mark.parametrize("floor", [30.0, 35.0, 40.0, 50.0])
def test_the_shipped_policy_keeps_every_floor_by_less_over_many_requests(floor: float) -> None:
    policy = load_policy(find_policy("shapes-ppo"))
    tables = policy.tables[28], policy.safe[28]

    blend = Target(min_psnr=floor, over="requests").blend(tables)

    alone = min(Target(min_psnr=floor).computes(table, policy.cost) for table in tables)
    shares = {
        one.schedule: share_above(one.reached.psnr_db, floor)
        for table in tables
        for one in table.values()
        if one.reached is not None
    }
    kept = (1 - blend.dear_share) * shares[blend.cheap] + blend.dear_share * shares[blend.dear]
    assert kept >= PROMISED_SHARE - 1e-9
    assert blend.cheap.computes < blend.mean_computes < alone
