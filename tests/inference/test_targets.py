import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.control import Controller, NetworkController, StaticSchedule, planned_modes
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.policy import Policy, load_schedules, save_schedules
from ditcache_rl.schedules import CostModel, Schedule, ScheduleTable, Scored, spaced_table
from ditcache_rl.types import Floats, Mode, RunInfo
from tests.kit.environment import levels_of, untrained_policy

#: 10 steps: an image costs 0.1 s, a step 0.01 s, computing it 0.08 s: 1.0 s for full compute.
COST = CostModel(
    fixed_s=0.1, step_s=0.01, site_s=0.08, forecast_s=0.0, num_inference_steps=10, sites=1
)
TABLE = spaced_table(np.linspace(1, 0, 11), 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            "one of speedup, latency_s, deadline_s, budget, tradeoff, min_psnr, min_ssim, ",
        ),
        ({"speedup": 2.0, "budget": 0.5}, "received speedup=2.0, budget=0.5$"),
        ({"speedup": 0.0}, "speedup must be > 0, received 0.0"),
        ({"speedup": -1.0}, "speedup must be > 0"),
        ({"speedup": math.nan}, "speedup must be > 0, received nan"),
        ({"latency_s": 0.0}, "latency_s must be > 0"),
        ({"latency_s": math.nan}, "latency_s must be > 0"),
        ({"budget": 0.0}, r"budget must lie in \(0, 1\], received 0.0"),
        ({"budget": 1.01}, r"budget must lie in \(0, 1\]"),
        ({"tradeoff": -0.1}, r"tradeoff must lie in \[0, 1000000\], received -0.1"),
        ({"tradeoff": math.nan}, "tradeoff must lie in"),
        ({"tradeoff": math.inf}, "tradeoff must lie in"),
        ({"speedup": 10**400}, "speedup must be > 0, received 1000"),
        ({"min_psnr": 0.0}, r"min_psnr must lie in \(0, 60\], received 0.0"),
        ({"min_psnr": 61.0}, r"min_psnr must lie in \(0, 60\]"),
        ({"min_ssim": 1.01}, r"min_ssim must lie in \(0, 1\]"),
        ({"min_ssim": math.nan}, r"min_ssim must lie in \(0, 1\]"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target(**given)


@pytest.mark.parametrize(
    ("target", "computes"),
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
def test_a_target_becomes_site_computes(target: Target, computes: int) -> None:
    assert target.computes(TABLE, COST) == computes


def with_floors(
    table: ScheduleTable, floors: dict[int, tuple[float, float]], *schedules: Schedule
) -> ScheduleTable:
    """Say that some lines were measured; schedules take the place of others that cost as much."""
    table = table.with_lines({one.computes: Scored(one) for one in schedules})
    return table.with_lines({n: Scored(*table[n][:3], *floor) for n, floor in floors.items()})


FLOORS = {3: (30.0, 0.9), 4: (29.0, 0.95), 6: (40.0, 0.99), 10: (60.0, 1.0)}


@pytest.mark.parametrize(
    ("target", "computes"),
    [
        (Target(min_psnr=20.0), 3),
        (Target(min_psnr=30.0), 3),
        (Target(min_psnr=30.1), 6),
        (Target(min_psnr=60.0), 10),
        (Target(min_ssim=0.91), 4),
        (Target(min_ssim=1.0), 10),
    ],
)
def test_a_floor_becomes_the_fewest_computes_that_keep_it(target: Target, computes: int) -> None:
    assert target.computes(with_floors(TABLE, FLOORS), COST) == computes


def test_a_floor_that_was_not_measured_is_refused() -> None:
    with pytest.raises(BudgetError, match="measured floors for 10 steps"):
        Target(min_psnr=30.0).computes(TABLE, COST)


@pytest.mark.parametrize(
    "target",
    [Target(speedup=3.6), Target(speedup=math.inf), Target(latency_s=0.27), Target(budget=0.05)],
    ids=str,
)
def test_out_of_reach_names_what_is_reachable(target: Target) -> None:
    with pytest.raises(BudgetError) as refused:
        target.computes(TABLE, COST)

    # One of 10 steps takes 0.28 s: 1 / 0.28 = 3.571
    assert "computes 1 of 10 site steps, a speedup of 3.57x (0.280 s per call)" in str(
        refused.value
    )
    assert Target(speedup=3.57).computes(TABLE, COST) == 1
    assert Target(latency_s=0.28).computes(TABLE, COST) == 1


def test_reachable_is_what_the_schedules_of_the_policy_reach() -> None:
    searched = ScheduleTable.of(TABLE.sigmas, [one for n, one in TABLE.items() if n >= 3])

    # The cost model alone would allow 3.57x, but no schedule computes less than three steps.
    with pytest.raises(BudgetError, match=r"computes 3 of 10 site steps, a speedup of 2\.27x"):
        Target(speedup=3.0).computes(searched, COST)
    assert Target(speedup=2.27).computes(searched, COST) == 3


def without_network(policy: Policy) -> Policy:
    return replace(policy, manifest=replace(policy.manifest, network=None), network=None)


def modes_chosen(controller: PolicyController, levels: Floats) -> list[int]:
    """Return the modes of the only site under the schedule that a policy chooses."""
    chosen = controller.choose(levels)
    assert isinstance(chosen, StaticSchedule)
    (schedule,) = chosen.schedules
    modes: list[int] = schedule.modes[:, 0].tolist()
    return modes


def test_the_network_decides_only_at_the_computes_where_it_is_better(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]})

    def chosen(target: Target, steps: int, adaptive: bool | None = None) -> type:
        return type(
            PolicyController(policy, target, adaptive=adaptive).choose(
                levels_of(tiny_pipe, tiny_call, steps)
            )
        )

    assert chosen(Target(budget=0.5), 4) is NetworkController
    assert chosen(Target(budget=0.75), 4) is StaticSchedule
    assert chosen(Target(budget=0.5), 6) is StaticSchedule
    assert chosen(Target(tradeoff=1.0), 4) is StaticSchedule
    assert chosen(Target(budget=0.5), 4, adaptive=False) is StaticSchedule
    assert chosen(Target(budget=0.75), 6, adaptive=True) is NetworkController


def test_a_network_that_is_not_there_is_refused(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    bare = without_network(untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]}))

    with pytest.raises(ConfigError, match="expected a policy with a network"):
        PolicyController(bare, Target(budget=0.5), adaptive=True)
    for adaptive in (None, False):
        controller = PolicyController(bare, Target(budget=0.5), adaptive=adaptive)
        chosen = controller.choose(levels_of(tiny_pipe, tiny_call, 4))
        assert isinstance(chosen, StaticSchedule)


def test_a_schedule_is_the_one_of_the_target(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    levels = levels_of(tiny_pipe, tiny_call, 4)

    half = PolicyController(policy, Target(budget=0.5))
    # Every further tenth of compute is worth 1 + 0.1 in the scores of this policy's table.
    greedy = PolicyController(policy, Target(tradeoff=0.0))
    frugal = PolicyController(policy, Target(tradeoff=12.0))

    compute, forecast = Mode.COMPUTE, Mode.FORECAST1
    assert modes_chosen(half, levels) == [compute, forecast, compute, forecast]
    assert modes_chosen(greedy, levels) == [compute] * 4
    assert modes_chosen(frugal, levels) == [compute, forecast, forecast, forecast]


def test_a_floor_takes_the_cheaper_of_both_schedules(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, steps=(4, 6), adaptive={"4": [2, 3]})
    spaced = policy.tables[4]
    other = Schedule(np.array([[0], [1], [1], [0]]))
    careful = with_floors(spaced, {2: (30.0, 0.8), 3: (35.0, 0.9)}, other)
    usual = with_floors(spaced, {2: (20.0, 0.8), 3: (35.0, 0.9)})
    policy = replace(policy, tables={**policy.tables, 4: usual}, safe={4: careful})

    def chosen(target: Target, steps: int = 4) -> Controller:
        return PolicyController(policy, target).choose(levels_of(tiny_pipe, tiny_call, steps))

    def modes(target: Target) -> list[int]:
        return modes_chosen(PolicyController(policy, target), usual.sigmas)

    assert modes(Target(min_psnr=30.0)) == [0, 1, 1, 0]
    for target in (Target(min_ssim=0.8), Target(min_psnr=20.0)):
        assert modes(target) == usual[2].schedule.modes[:, 0].tolist(), "better on average"
    assert isinstance(chosen(Target(min_psnr=35.0)), StaticSchedule), "floors are of schedules"
    assert isinstance(chosen(Target(budget=0.5)), NetworkController)
    with pytest.raises(BudgetError, match="measured floors for 6 steps"):
        chosen(Target(min_psnr=30.0), 6)


def test_a_policy_of_a_schedule_file_says_its_future(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    made = without_network(untrained_policy(tiny_pipe, tiny_call))
    other = Schedule(np.array([[0], [1], [1], [0]]))
    better = made.tables[4].with_lines({2: Scored(other, 99.0, 1.0)})
    save_schedules(
        {"one": made, "another": replace(made, tables={4: better})}, tmp_path / "schedules.json"
    )
    policy = Policy.best_of(load_schedules(tmp_path / "schedules.json").values())

    for steps, schedule in ((4, other), (6, made.tables[6][3].schedule)):
        controller = PolicyController(policy, Target(budget=0.5))
        levels = levels_of(tiny_pipe, tiny_call, steps)
        controller.reset(RunInfo(steps, levels, rows=2, sites=1))
        modes = planned_modes(controller)
        assert modes is not None
        np.testing.assert_array_equal(modes, np.stack([schedule.modes] * 2, axis=1))


def test_nobody_knows_beforehand_what_a_network_decides(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]})
    run = RunInfo(4, levels_of(tiny_pipe, tiny_call, 4), rows=2, sites=1)

    for target, knows in ((Target(budget=0.5), False), (Target(budget=0.75), True)):
        controller = PolicyController(policy, target)
        controller.reset(run)
        assert (controller.planned() is not None) == knows
