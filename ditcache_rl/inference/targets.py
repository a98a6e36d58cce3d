"""Turn what a user asks for into a budget, a schedule or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ditcache_rl.control import Controller, NetworkController, StaticSchedule, planned_modes
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy, ScheduleFile
from ditcache_rl.schedules import CostModel, Leveled, carry_plans
from ditcache_rl.schedules.patterns import step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.types import Decision, Floats, Modes, RunInfo, StepInfo

#: Noise levels that differ by less are the same.
_SAME_LEVEL = 1e-4
#: Plans that were carried over are kept for so many runs with noise levels of their own.
_KEPT = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for; exactly one field is set.

    ::

        Wish(speedup=2.0)     # at least twice as fast as full compute, by this policy's cost model
        Wish(latency_s=0.2)   # at most 0.2 s per pipeline call
        Wish(budget=0.25)     # a quarter of full compute
        Wish(tradeoff=1.0)    # maximise quality minus 1.0 * time / reference time
        Wish(min_psnr=35.0)   # the cheapest schedule that keeps 95 % of the images above 35 dB
        Wish(min_ssim=0.98)   # likewise
    """

    speedup: float | None = None
    latency_s: float | None = None
    budget: float | None = None
    tradeoff: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"expected exactly one of {', '.join(f.name for f in fields(self))}, received "
                f"{given or 'none'}"
            )
        ((name, value),) = given.items()
        most = {"budget": 1.0, "min_ssim": 1.0, "min_psnr": PSNR_CAP_DB}.get(name, math.inf)
        lower_is_open = name != "tradeoff"
        if not (0 < value <= most if lower_is_open else value >= 0):
            bounds = (
                ">= 0" if name == "tradeoff" else f"in (0, {most:g}]" if most < math.inf else "> 0"
            )
            raise ConfigError(f"{name} must be {bounds}, received {value}")

    @property
    def names_floor(self) -> bool:
        """Whether it is the quality that is given, and compute that follows."""
        return self.min_psnr is not None or self.min_ssim is not None

    def site_computes(self, plan: Plan, cost: CostModel) -> int:
        """Return the budget in site computes; 0 for a tradeoff.

        Raises:
            BudgetError: If it is out of reach; the message names what is reachable.
        """
        if self.tradeoff is not None:
            return 0
        if self.names_floor:
            return self._above_floor(plan, cost)
        if self.budget is not None:
            budget = int(self.budget * cost.site_steps + 1e-9)
        else:
            wanted = self.speedup or cost.reference_s / (self.latency_s or 1.0)
            try:
                budget = cost.budget_for(wanted)
            except BudgetError:
                budget = 0  # the message below names what the policy reaches
        if budget < plan.least:
            # Both are rounded towards what can be kept: asking for what the message names works.
            least_s = cost.with_computes(plan.least)
            fastest = math.floor(cost.reference_s / least_s * 100) / 100
            raise BudgetError(
                f"expected a target within reach, received {self}: the fastest schedule of this "
                f"policy for {cost.num_inference_steps} steps computes {plan.least} of "
                f"{cost.site_steps} site steps, a speedup of {fastest:.2f}x "
                f"({math.ceil(least_s * 1000) / 1000:.3f} s per call)"
            )
        return budget

    def _above_floor(self, plan: Plan, cost: CostModel) -> int:
        """Return the cheapest budget whose measured floor is not below the wish."""
        wanted, column = (self.min_psnr, 0) if self.min_psnr is not None else (self.min_ssim, 1)
        assert wanted is not None
        floors = plan.floors[:, column]
        enough = np.flatnonzero(floors >= wanted)  # nan is not
        if not len(enough):
            raise BudgetError(
                f"expected a policy with measured floors for {cost.num_inference_steps} steps, "
                f"received {self} and none; use the step count that it was trained at, or a speedup"
            )
        return int(enough[0])


class KnownPlans:
    """Plans by noise level; those that were carried over to others are kept.

    Args:
        sources: What there is.
        sites: Parts of the block stack.
    """

    def __init__(self, sources: Sequence[Leveled], sites: int) -> None:
        self._sources, self._sites = sources, sites
        self._carried: dict[bytes, Plan] = {}

    def at(self, sigmas: Floats) -> Plan:
        """Return the plan for (steps + 1,) noise levels."""
        for plan, own in self._sources:
            if len(own) == len(sigmas) and np.allclose(own, sigmas, rtol=0.0, atol=_SAME_LEVEL):
                return plan
        key = sigmas.tobytes()
        if key not in self._carried:
            if len(self._carried) == _KEPT:
                self._carried.pop(next(iter(self._carried)), None)  # another thread may do so
            self._carried[key] = carry_plans(self._sources, sigmas, sites=self._sites)
        return self._carried[key]

    def notes(self) -> list[str]:
        """Say what was carried over."""
        made_for = ", ".join(str(len(own) - 1) for _, own in self._sources)
        counts = sorted({plan.patterns.shape[1] for plan in self._carried.values()})
        return [
            f"schedules for {count} steps were carried over by noise level from those for "
            f"{made_for}; what they are worth was not measured"
            for count in counts
        ]


class PolicyController:
    """Follow a policy under a wish; steps and noise levels are those of the request.

    Args:
        policy: Plans, network and what it is good for.
        wish: The user's target.
        adaptive: None to use the network where the policy says that it beats its static schedule;
            True or
            False to use it always or never.
    """

    probe_blocks = 0

    def __init__(self, policy: Policy, wish: Wish, *, adaptive: bool | None = None) -> None:
        self._policy, self._wish, self._adaptive = policy, wish, adaptive
        self.plans = KnownPlans(policy.leveled, policy.manifest.sites)

    def reset(self, run: RunInfo) -> None:
        """Choose schedule or network for the request's noise levels; errors are as of `choose`."""
        self._delegate = self.choose(run.sigmas)
        self._delegate.reset(run)

    def planned(self) -> Modes | None:
        """Return the schedule, None where the network decides."""
        return planned_modes(self._delegate)

    def decide(self, info: StepInfo) -> Decision:
        """Ask the chosen controller."""
        return self._delegate.decide(info)

    def choose(self, sigmas: Floats) -> Controller:
        """Return the controller for a run with (steps + 1,) noise levels.

        Raises:
            BudgetError: If the wish is out of reach.
        """
        policy, manifest, steps = self._policy, self._policy.manifest, len(sigmas) - 1
        plan, cost = self.plans.at(sigmas), CostModel.from_dict(manifest.profile).for_steps(steps)
        is_own = plan is policy.plans.get(steps)
        if self._wish.names_floor and is_own:
            # Of equals the first, which is better on average.
            both = plan, policy.safe.get(steps, plan)
            plan = min(both, key=lambda one: self._wish.site_computes(one, cost))
        budget = self._wish.site_computes(plan, cost)
        weight = self._wish.tradeoff
        if weight is not None:
            row = plan.row(tradeoff_budget(plan, cost, manifest.reward, weight))
            adaptive = is_own and manifest.adaptive_tradeoff
        else:
            row = plan.row(budget)
            # What the network was compared with are not the schedules for floors.
            known = manifest.adaptive.get(str(steps), []) if is_own else []
            adaptive = not self._wish.names_floor and budget in known
        if self._adaptive if self._adaptive is not None else adaptive:
            return NetworkController(
                manifest.actions,
                policy.network,
                plan=row,
                budget=budget,
                latency_weight=weight or 0.0,
            )
        return StaticSchedule.of(row, manifest.actions.patterns)


class ScheduleController:
    """Follow the best schedule of a file under a wish; the noise levels are those of the request.

    Args:
        file: What a search found.
        wish: The user's target.
        method: Only what this search found; by default whatever scored best.

    Raises:
        ConfigError: If the file has nothing that the method found.
    """

    probe_blocks = 0

    def __init__(self, file: ScheduleFile, wish: Wish, *, method: str | None = None) -> None:
        self._file, self._wish = file, wish
        self.plans = KnownPlans(file.leveled(method=method), file.sites)

    def reset(self, run: RunInfo) -> None:
        """Choose the schedule for the request's noise levels; errors are those of `choose`."""
        self._delegate = self.choose(run.sigmas)
        self._delegate.reset(run)

    def decide(self, info: StepInfo) -> Decision:
        """Follow the chosen schedule."""
        return self._delegate.decide(info)

    def choose(self, sigmas: Floats) -> StaticSchedule:
        """Return the schedule for a run with (steps + 1,) noise levels.

        Raises:
            BudgetError: If the wish is out of reach.
        """
        file, plan = self._file, self.plans.at(sigmas)
        cost = CostModel.from_dict(file.profile).for_steps(len(sigmas) - 1)
        weight = self._wish.tradeoff
        budget = self._wish.site_computes(plan, cost)
        if weight is not None:
            budget = tradeoff_budget(plan, cost, file.reward, weight)
        return StaticSchedule.of(plan.row(budget), step_patterns(file.sites))


def tradeoff_budget(
    plan: Plan, cost: CostModel, reward: dict[str, float], latency_weight: float
) -> int:
    """Return the budget whose static schedule has the best expected reward at a weight on latency.

    Of a plan that was never scored, the budget in the middle.
    """
    known = np.flatnonzero(plan.patterns[:, 0] >= 0)
    budgets = known[np.isfinite(plan.quality[known, 0])]
    if not len(budgets):
        return int(known[len(known) // 2])
    quality = (
        reward["psnr"] * plan.quality[budgets, 0] / 10 + reward["ssim"] * plan.quality[budgets, 1]
    )
    times = np.array([cost.with_computes(int(b)) for b in budgets]) / cost.reference_s
    return int(budgets[np.argmax(quality - latency_weight * times)])
