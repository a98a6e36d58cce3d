import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ditcache_rl.schedules.plan import Plan

from ditcache_rl.control import NetworkController, StaticSchedule
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.inference import PolicyController, Target, tradeoff_budget
from ditcache_rl.schedules import CostModel
from ditcache_rl.search import spaced_plan
from ditcache_rl.types import Mode
from tests.kit.environment import levels_of, untrained_policy

#: 10 steps: an image costs 0.1 s, a step 0.01 s, computing it 0.08 s: 1.0 s for full compute.
COST = CostModel(
    fixed_s=0.1, step_s=0.01, site_s=0.08, forecast_s=0.0, num_inference_steps=10, sites=1
)
PLAN = spaced_plan(10, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of speedup, latency_s, budget, tradeoff, min_psnr, min_ssim, received"),
        ({"speedup": 2.0, "budget": 0.5}, "received {'speedup': 2.0, 'budget': 0.5}"),
        ({"speedup": 0.0}, "speedup must be > 0, received 0.0"),
        ({"speedup": -1.0}, "speedup must be > 0"),
        ({"speedup": math.nan}, "speedup must be > 0, received nan"),
        ({"latency_s": 0.0}, "latency_s must be > 0"),
        ({"latency_s": math.nan}, "latency_s must be > 0"),
        ({"budget": 0.0}, r"budget must be in \(0, 1\], received 0.0"),
        ({"budget": 1.01}, r"budget must be in \(0, 1\]"),
        ({"tradeoff": -0.1}, "tradeoff must be >= 0, received -0.1"),
        ({"tradeoff": math.nan}, "tradeoff must be >= 0"),
        ({"min_psnr": 0.0}, r"min_psnr must be in \(0, 60\], received 0.0"),
        ({"min_psnr": 61.0}, r"min_psnr must be in \(0, 60\]"),
        ({"min_ssim": 1.01}, r"min_ssim must be in \(0, 1\]"),
        ({"min_ssim": math.nan}, r"min_ssim must be in \(0, 1\]"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target(**given)


@pytest.mark.parametrize(
    ("wish", "budget"),
    [
        (Target(budget=1.0), 10),
        (Target(budget=0.3), 3),  # 0.3 * 10 is below 3 in floats
        (Target(budget=0.39), 3),
        (Target(speedup=1.0), 10),
        (Target(speedup=0.5), 10),
        (Target(speedup=2.0), 3),  # 0.2 s + 3 * 0.08 s = 0.44 s; with 4 it would be 0.52 s
        (Target(latency_s=0.5), 3),
        (Target(latency_s=0.52), 4),
        (Target(latency_s=60.0), 10),
        (Target(latency_s=math.inf), 10),
        (Target(tradeoff=0.0), 0),
        (Target(tradeoff=3.0), 0),
    ],
)
def test_a_wish_becomes_site_computes(wish: Target, budget: int) -> None:
    assert wish.site_computes(PLAN, COST) == budget


FLOORS = np.full((11, 2), np.nan)
FLOORS[[3, 4, 6, 10]] = [30.0, 0.9], [29.0, 0.95], [40.0, 0.99], [60.0, 1.0]


@pytest.mark.parametrize(
    ("wish", "budget"),
    [
        (Target(min_psnr=20.0), 3),
        (Target(min_psnr=30.0), 3),
        (Target(min_psnr=30.1), 6),
        (Target(min_psnr=60.0), 10),
        (Target(min_ssim=0.91), 4),
        (Target(min_ssim=1.0), 10),
    ],
)
def test_a_floor_becomes_the_least_budget_that_keeps_it(wish: Target, budget: int) -> None:
    assert wish.site_computes(PLAN._replace(floors=FLOORS), COST) == budget


def test_a_floor_that_was_not_measured_is_refused() -> None:
    with pytest.raises(BudgetError, match="measured floors for 10 steps"):
        Target(min_psnr=30.0).site_computes(PLAN, COST)


@pytest.mark.parametrize(
    "wish",
    [Target(speedup=3.6), Target(speedup=math.inf), Target(latency_s=0.27), Target(budget=0.05)],
    ids=str,
)
def test_out_of_reach_names_what_is_reachable(wish: Target) -> None:
    with pytest.raises(BudgetError) as refused:
        wish.site_computes(PLAN, COST)

    # One of 10 steps takes 0.28 s: 1 / 0.28 = 3.571
    assert "computes 1 of 10 site steps, a speedup of 3.57x (0.280 s per call)" in str(
        refused.value
    )
    assert Target(speedup=3.57).site_computes(PLAN, COST) == 1
    assert Target(latency_s=0.28).site_computes(PLAN, COST) == 1


def test_reachable_is_what_the_schedules_of_the_policy_reach() -> None:
    searched = Plan.unfitted(np.where(np.arange(11)[:, None] < 3, -1, PLAN.patterns), PLAN.quality)

    # The cost model alone would allow 3.57x, but no schedule computes less than three steps.
    with pytest.raises(BudgetError, match=r"computes 3 of 10 site steps, a speedup of 2\.27x"):
        Target(speedup=3.0).site_computes(searched, COST)
    assert Target(speedup=2.27).site_computes(searched, COST) == 3


@pytest.mark.parametrize(
    ("weight", "budget"),
    [
        # Expected reward, psnr / 10 + ssim - weight * time share, by hand:
        (0.0, 8),  # 2.70, 3.50, 3.70, 3.94
        (0.5, 8),  # 2.52, 3.28, 3.40, 3.52
        (1.0, 2),  # 2.34, 3.06, 3.10, 3.10: see below
        (4.0, 2),  # 1.26, 1.74, 1.30, 0.58
        (9.0, 1),  # -0.54, -0.46, ...
    ],
)
def test_a_tradeoff_takes_the_budget_of_the_best_expected_reward(
    weight: float, budget: int
) -> None:
    quality = np.full((11, 2), np.nan)
    known = {1: (20.0, 0.7), 2: (27.0, 0.8), 5: (28.0, 0.9), 8: (30.0, 0.94)}
    for count, scored in known.items():
        quality[count] = scored
    rewards = {
        count: psnr / 10 + ssim - weight * (0.2 + 0.08 * count)
        for count, (psnr, ssim) in known.items()
    }

    found = tradeoff_budget(
        Plan.unfitted(PLAN.patterns, quality), COST, {"psnr": 1, "ssim": 1}, weight
    )

    assert found == max(rewards, key=rewards.__getitem__)


def test_the_weights_of_the_reward_count() -> None:
    quality = np.full((11, 2), np.nan)
    quality[2], quality[5] = (30.0, 0.5), (20.0, 0.9)
    plan = Plan.unfitted(PLAN.patterns, quality)

    assert tradeoff_budget(plan, COST, {"psnr": 1, "ssim": 0}, 0.0) == 2
    assert tradeoff_budget(plan, COST, {"psnr": 0, "ssim": 1}, 0.0) == 5


def test_a_plan_that_was_never_scored_is_taken_in_the_middle() -> None:
    assert tradeoff_budget(PLAN, COST, {"psnr": 1, "ssim": 1}, 1.0) == 6


def test_the_network_decides_only_at_the_budgets_where_it_is_better(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]})

    def chosen(wish: Target, steps: int, adaptive: bool | None = None) -> type:
        return type(
            PolicyController(policy, wish, adaptive=adaptive).choose(
                levels_of(tiny_pipe, tiny_call, steps)
            )
        )

    assert chosen(Target(budget=0.5), 4) is NetworkController
    assert chosen(Target(budget=0.75), 4) is StaticSchedule
    assert chosen(Target(budget=0.5), 6) is StaticSchedule
    assert chosen(Target(tradeoff=1.0), 4) is StaticSchedule
    assert chosen(Target(budget=0.5), 4, adaptive=False) is StaticSchedule
    assert chosen(Target(budget=0.75), 6, adaptive=True) is NetworkController


def test_a_schedule_is_the_one_of_the_budget(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    levels = levels_of(tiny_pipe, tiny_call, 4)

    half = PolicyController(policy, Target(budget=0.5)).choose(levels)
    # Every further tenth of compute is worth 1 + 0.1 in the scores of this policy's plan.
    greedy = PolicyController(policy, Target(tradeoff=0.0)).choose(levels)
    frugal = PolicyController(policy, Target(tradeoff=12.0)).choose(levels)

    assert isinstance(half, StaticSchedule)
    assert isinstance(greedy, StaticSchedule)
    assert isinstance(frugal, StaticSchedule)
    compute, forecast = Mode.COMPUTE, Mode.FORECAST1
    assert half.modes[:, 0].tolist() == [compute, forecast, compute, forecast]
    assert greedy.modes[:, 0].tolist() == [compute] * 4
    assert frugal.modes[:, 0].tolist() == [compute, forecast, forecast, forecast]


def test_a_floor_takes_the_cheaper_of_both_schedules(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, steps=(4, 6), adaptive={"4": [2, 3]})
    careful = spaced_plan(4, 1)
    careful.patterns[2] = [0, 1, 1, 0]
    careful.floors[[2, 3]] = [30.0, 0.8], [35.0, 0.9]
    policy.plans[4].floors[[2, 3]] = [20.0, 0.8], [35.0, 0.9]
    policy = replace(policy, safe={4: careful})

    def chosen(wish: Target, steps: int = 4) -> Any:
        return PolicyController(policy, wish).choose(levels_of(tiny_pipe, tiny_call, steps))

    assert chosen(Target(min_psnr=30.0)).modes[:, 0].tolist() == [0, 1, 1, 0]
    for wish in (Target(min_ssim=0.8), Target(min_psnr=20.0)):
        usual = policy.plans[4].row(2).patterns
        assert chosen(wish).modes[:, 0].tolist() == usual.tolist(), "better on average"
    assert isinstance(chosen(Target(min_psnr=35.0)), StaticSchedule), "floors are of schedules"
    assert isinstance(chosen(Target(budget=0.5)), NetworkController)
    with pytest.raises(BudgetError, match="measured floors for 6 steps"):
        chosen(Target(min_psnr=30.0), 6)
