"""Turn what a user asks for into a number of computes, a schedule or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ditcache_rl.config import check_within
from ditcache_rl.control import (
    AllCompute,
    Controller,
    Delegating,
    NetworkController,
    StaticSchedule,
)
from ditcache_rl.errors import BudgetError, ConfigError, as_written
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import CostModel, ScheduleTable, carry, computes_of
from ditcache_rl.schedules.table import is_at
from ditcache_rl.types import MOST_COUNT, Floats, RunInfo
from ditcache_rl.world import DeadlineController, Gauges, Pacer

#: What targets may be at most; the others have no limit.
_MOST = {"budget": 1.0, "min_ssim": 1.0, "min_psnr": PSNR_CAP_DB, "tradeoff": MOST_COUNT}
#: Tables that were carried over are kept for so many runs with noise levels of their own.
_KEPT = 32


@dataclass(frozen=True, slots=True)
class Target:
    """What a user asks for; exactly one field is set.

    ::

        Target(speedup=2.0)     # at least twice as fast as full compute, by the policy's cost model
        Target(latency_s=0.2)   # at most 0.2 s per pipeline call
        Target(deadline_s=0.2)  # within 0.2 s, by the clock, and as good as it can be then
        Target(budget=0.25)     # a quarter of full compute
        Target(tradeoff=1.0)    # maximise quality minus 1.0 * time / reference time
        Target(min_psnr=35.0)   # the cheapest schedule that keeps 95 % of the images above 35 dB
        Target(min_ssim=0.98)   # likewise
    """

    speedup: float | None = None
    latency_s: float | None = None
    deadline_s: float | None = None
    budget: float | None = None
    tradeoff: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None

    def __post_init__(self) -> None:
        every: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: value for name, value in every.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"expected exactly one of {', '.join(f.name for f in fields(self))}, received "
                f"{as_written(given) or 'none'}"
            )
        ((name, value),) = given.items()
        check_within(name, value, 0, _MOST.get(name, math.inf), above=name != "tradeoff")

    def __str__(self) -> str:
        """Write the target as a user did."""
        return as_written({f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def names_floor(self) -> bool:
        """Whether it is the quality that is given, and compute that follows."""
        return self.min_psnr is not None or self.min_ssim is not None

    def computes(self, table: ScheduleTable, cost: CostModel) -> int:
        """Return the site computes that may be spent; 0 for a tradeoff.

        Raises:
            BudgetError: If it is out of reach; the message names what is reachable.
        """
        if self.tradeoff is not None:
            return 0
        if self.names_floor:
            return self._above_floor(table)
        if self.budget is not None:
            computes = computes_of(self.budget, cost.site_steps)
        else:
            wanted = self.speedup or cost.reference_s / (self.latency_s or 1.0)
            try:
                computes = cost.computes_for(wanted)
            except BudgetError:
                computes = 0  # the message below names what the policy reaches
        if computes < table.least:
            # Both are rounded towards what can be kept: asking for what the message names works.
            least_s = cost.with_computes(table.least)
            fastest = math.floor(cost.reference_s / least_s * 100) / 100
            raise BudgetError(
                f"expected a target within reach, received {self}: the fastest schedule of this "
                f"policy for {cost.num_inference_steps} steps computes {table.least} of "
                f"{cost.site_steps} site steps, a speedup of {fastest:.2f}x "
                f"({math.ceil(least_s * 1000) / 1000:.3f} s per call)"
            )
        return computes

    def _above_floor(self, table: ScheduleTable) -> int:
        """Return the computes of the cheapest schedule whose measured floor is not below."""
        for computes, scored in table.items():
            floor, wanted = (
                (scored.floor_psnr_db, self.min_psnr)
                if self.min_psnr is not None
                else (scored.floor_ssim, self.min_ssim)
            )
            if wanted is not None and floor >= wanted:  # nan is not
                return computes
        raise BudgetError(
            f"expected a policy with measured floors for {table.steps} steps, received {self} and "
            "none; use the step count that it was trained at, or a speedup"
        )


class Tables:
    """Schedules by noise level; those that were carried over to others are kept.

    Args:
        sources: What there is.
    """

    def __init__(self, sources: Sequence[ScheduleTable]) -> None:
        self._sources = sources
        self._carried: dict[bytes, ScheduleTable] = {}

    def at(self, sigmas: Floats) -> ScheduleTable:
        """Return the table for (steps + 1,) noise levels."""
        for table in self._sources:
            if table.is_at(sigmas):
                return table
        key = sigmas.tobytes()
        if key not in self._carried:
            if len(self._carried) == _KEPT:
                self._carried.pop(next(iter(self._carried)), None)  # another thread may do so
            self._carried[key] = carry(self._sources, sigmas)
        return self._carried[key]

    def notes(self) -> list[str]:
        """Say what was carried over."""
        made_for = ", ".join(str(table.steps) for table in self._sources)
        return [
            f"schedules for {count} steps were carried over by noise level from those for "
            f"{made_for}; what they are worth was not measured"
            for count in sorted({table.steps for table in self._carried.values()})
        ]


class PolicyController(Delegating):
    """Follow a policy under a target; steps and noise levels are those of the request.

    A request whose target is out of reach, as with too few steps, computes everything.

    Args:
        policy: Schedules, perhaps a network, and what it is good for.
        target: What the user asks for.
        adaptive: None to use the network where the policy says that it beats its static schedule;
            True or False to use it always or never.

    Attributes:
        target: What the user asks for.

    Raises:
        ConfigError: If a network is asked for that the policy does not have.
    """

    def __init__(self, policy: Policy, target: Target, *, adaptive: bool | None = None) -> None:
        if adaptive and policy.network is None:
            raise ConfigError("expected a policy with a network, received one of schedules alone")
        self._policy, self.target, self._adaptive = policy, target, adaptive
        self.tables = Tables(list(policy.tables.values()))
        self._unmet: dict[int, str] = {}  # by steps; copies share it
        self._gauges = Gauges()  # likewise

    def reset(self, run: RunInfo) -> None:
        """Choose schedule or network for the request's noise levels."""
        try:
            self._delegate: Controller = self.choose(run.sigmas)
        except BudgetError as error:
            self._unmet[run.num_inference_steps] = str(error)
            self._delegate = AllCompute()
        self._delegate.reset(run)

    @property
    def deadline_s(self) -> float | None:
        """Seconds that every request may take, None without such a target."""
        return self.target.deadline_s

    def notes(self) -> list[str]:
        """Say what was carried over, and which requests computed everything for want of better."""
        return self.tables.notes() + [
            f"requests of {steps} steps compute everything: {why}"
            for steps, why in sorted(self._unmet.items())
        ]

    def choose(self, sigmas: Floats) -> Controller:
        """Return the controller for a run with (steps + 1,) noise levels.

        Raises:
            BudgetError: If the target is out of reach.
        """
        policy, target, steps = self._policy, self.target, len(sigmas) - 1
        if target.deadline_s is not None:
            return DeadlineController(self._pacer(sigmas), target.deadline_s, gauges=self._gauges)
        table, cost = self.tables.at(sigmas), policy.cost.for_steps(steps)
        is_own = table is policy.tables.get(steps)
        if target.names_floor and is_own:
            # Of equals the first, which is better on average.
            both = table, policy.safe.get(steps, table)
            table = min(both, key=lambda one: target.computes(one, cost))
        computes, weight = target.computes(table, cost), target.tradeoff or 0.0
        followed = computes
        if target.tradeoff is not None:
            followed = policy.objective.best_tradeoff(table, cost, weight)
        schedule = table.within(followed)
        used = self._adaptive
        if used is None:
            used = is_own and self._is_better(steps, computes)
        if not used or policy.network is None:
            return StaticSchedule(schedule)
        return NetworkController(
            policy.manifest.actions,
            policy.network,
            schedule=schedule,
            computes=computes,
            latency_weight=weight,
        )

    def _pacer(self, sigmas: Floats) -> Pacer:
        """Return what keeps deadlines in a run of these noise levels."""
        pacer = self._policy.pacer
        if pacer is None:
            raise BudgetError(
                f"expected a policy that was trained to keep deadlines, received {self.target} "
                "and one that was not; name loads under [world] and train it, or use latency_s"
            )
        if not is_at(pacer.sigmas, sigmas):
            raise BudgetError(
                f"expected a run of the {len(pacer.sigmas) - 1} steps that this policy keeps "
                f"deadlines at, received {len(sigmas) - 1} steps or other noise levels; use "
                "latency_s there"
            )
        return pacer

    def _is_better(self, steps: int, computes: int) -> bool:
        """Tell whether the policy says that its network beats its schedule."""
        use, target = self._policy.manifest.network, self.target
        # What the network was compared with are not the schedules for floors.
        if use is None or target.names_floor:
            return False
        if target.tradeoff is not None:
            return use.adaptive_tradeoff
        return computes in use.adaptive.get(str(steps), [])
