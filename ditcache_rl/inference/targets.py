"""Turn what a user asks for into a number of computes, a schedule or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ditcache_rl.config import check_within
from ditcache_rl.control import (
    AllCompute,
    Controller,
    Delegating,
    NetworkController,
    StaticSchedule,
)
from ditcache_rl.errors import BudgetError, ConfigError, as_written, closest
from ditcache_rl.inference.blend import Blend, Turns, cheapest_blend
from ditcache_rl.inference.tables import Tables
from ditcache_rl.instrument import RequestLog
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import CostModel, ScheduleTable, computes_of, share_above
from ditcache_rl.schedules.table import is_at
from ditcache_rl.types import MOST_COUNT, Floats, RunInfo
from ditcache_rl.world import DeadlineController, Gauges, Pacer

#: What targets may be at most; the others have no limit.
_MOST = {"budget": 1.0, "min_ssim": 1.0, "min_psnr": PSNR_CAP_DB, "tradeoff": MOST_COUNT}
#: What a floor is kept over: every request for itself, or many of them together.
Over = Literal["request", "requests"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a user asks for; exactly one target is set.

    ::

        Target(speedup=2.0)     # at least twice as fast as full compute, by the policy's cost model
        Target(latency_s=0.2)   # at most 0.2 s per pipeline call
        Target(deadline_s=0.2)  # within 0.2 s, by the clock, and as good as it can be then
        Target(budget=0.25)     # a quarter of full compute
        Target(tradeoff=1.0)    # maximise quality minus 1.0 * time / reference time
        Target(min_psnr=35.0)   # the cheapest schedule that keeps 95 % of the images above 35 dB
        Target(min_ssim=0.98)   # likewise
        Target(min_psnr=35.0, over="requests")  # likewise, over many requests: some compute less
    """

    speedup: float | None = None
    latency_s: float | None = None
    deadline_s: float | None = None
    budget: float | None = None
    tradeoff: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None
    over: Over = "request"

    def __post_init__(self) -> None:
        every: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        over = every.pop("over")
        given = {name: value for name, value in every.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"expected exactly one of {', '.join(every)}, received "
                f"{as_written(given) or 'none'}"
            )
        if over not in get_args(Over):
            raise ConfigError(
                f"over must be one of {', '.join(get_args(Over))}, received {over!r}."
                f"{closest(str(over), get_args(Over))}"
            )
        if over == "requests" and not self.names_floor:
            raise ConfigError(
                f"over='requests' is how a floor is kept: expected min_psnr or min_ssim beside it, "
                f"received {as_written(given)}"
            )
        ((name, value),) = given.items()
        check_within(name, value, 0, _MOST.get(name, math.inf), above=name != "tradeoff")

    def __str__(self) -> str:
        """Write the target as a user did."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.over == "request":
            del every["over"]
        return as_written(every)

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

    def blend(self, tables: Sequence[ScheduleTable]) -> Blend:
        """Return what keeps the floor over many requests with the fewest computes.

        Raises:
            BudgetError: If it was not measured what shares of the prompts reach.
        """
        known = []
        for one in (scored for table in tables for scored in table.values()):
            if one.reached is not None and self.min_psnr is not None:
                known.append((one, share_above(one.reached.psnr_db, self.min_psnr)))
            elif one.reached is not None and self.min_ssim is not None:
                known.append((one, share_above(one.reached.ssim, self.min_ssim)))
        found = cheapest_blend(known)
        if found is None:
            raise BudgetError(
                f"expected a policy that knows what its prompts reach at {tables[0].steps} steps, "
                f"received {self} and one that does not; leave `over` out, train it again, or use "
                "the step count that it was trained at"
            )
        return found

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
        self.policy, self.target, self._adaptive = policy, target, adaptive
        self.tables = Tables(list(policy.tables.values()), policy.pacer)
        self._unmet: dict[int, str] = {}  # by steps; copies share it
        self._gauges = Gauges()  # likewise
        self._turns, self._blends = Turns(), dict[int, Blend]()  # likewise

    def reset(self, run: RunInfo) -> None:
        """Choose schedule or network for the request's noise levels."""
        try:
            self._delegate: Controller = self.choose(run.sigmas, turn=self._turns.take())
        except BudgetError as error:
            self._unmet[run.num_inference_steps] = str(error)
            self._delegate = AllCompute()
        self._delegate.reset(run)

    @property
    def deadline_s(self) -> float | None:
        """Seconds that every request may take, None without such a target."""
        return self.target.deadline_s

    def hear(self, log: RequestLog) -> None:
        """Learn from a finished request how much time must be kept back for a deadline."""
        limit, pacer = self.target.deadline_s, self.policy.pacer
        if limit is not None and pacer is not None:
            promised = pacer.pacing.promised_share
            in_time = log.seconds <= limit
            self._gauges.judge(log.modes, in_time=in_time, promised_share=promised)

    def notes(self) -> list[str]:
        """Say what was carried over, and which requests computed everything for want of better."""
        blends = [f"over requests: {blend}" for _, blend in sorted(self._blends.items())]
        return (
            self.tables.notes()
            + blends
            + [
                f"requests of {steps} steps compute everything: {why}"
                for steps, why in sorted(self._unmet.items())
            ]
        )

    def choose(self, sigmas: Floats, *, turn: float = 0.0) -> Controller:
        """Return the controller for a run.

        Args:
            sigmas: (steps + 1,) noise levels.
            turn: Place of the request in [0, 1), where a floor is kept over many of them.

        Raises:
            BudgetError: If the target is out of reach.
        """
        policy, target, steps = self.policy, self.target, len(sigmas) - 1
        if target.deadline_s is not None:
            return DeadlineController(self._pacer(sigmas), target.deadline_s, gauges=self._gauges)
        table, cost = self.tables.at(sigmas), policy.cost.for_steps(steps)
        is_own = table is policy.tables.get(steps)
        if target.names_floor and is_own:
            # Of equals the first, which is better on average.
            both = table, policy.safe.get(steps, table)
            if target.over == "requests":
                blend = self._blends[steps] = self._blends.get(steps) or target.blend(both)
                return StaticSchedule(blend.at(turn))
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
        pacer = self.policy.pacer
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
        use, target = self.policy.manifest.network, self.target
        # What the network was compared with are not the schedules for floors.
        if use is None or target.names_floor:
            return False
        if target.tradeoff is not None:
            return use.adaptive_tradeoff
        return computes in use.adaptive.get(str(steps), [])
