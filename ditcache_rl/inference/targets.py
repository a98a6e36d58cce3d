"""Turn what a user asks for into a schedule, a network or a keeper of deadlines."""

from __future__ import annotations

import numpy as np

from ditcache_rl.control import (
    AllCompute,
    Controller,
    Delegating,
    NetworkController,
    StaticSchedule,
)
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.inference.asked import Target, TargetsByRow
from ditcache_rl.inference.blend import Blend, Turns
from ditcache_rl.inference.tables import Tables
from ditcache_rl.instrument import RequestLog
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule, ScheduleTable
from ditcache_rl.schedules.table import is_at
from ditcache_rl.types import Floats, RunInfo
from ditcache_rl.world import DeadlineController, Gauges, Pacer


class PolicyController(Delegating):
    """Follow a policy under a target; steps and noise levels are those of the request.

    A request for which the target of all is out of reach, as with too few steps, computes
    everything; one that was asked for a target of its own fails there.

    Args:
        policy: Schedules, perhaps a network, and what it is good for.
        target: What the user asks for.
        adaptive: None to use the network where the policy says that it beats its static schedule;
            True or False to use it always or never.
        ranked: Ranks decide the same, by clocks of their own.

    Attributes:
        target: What the user asks for.
        distrust: Why the policy is followed no more, and everything is computed; "" while it is.

    Raises:
        ConfigError: If a network is asked for that the policy does not have.
    """

    def __init__(
        self,
        policy: Policy,
        target: Target,
        *,
        adaptive: bool | None = None,
        ranked: bool = False,
    ) -> None:
        if adaptive and policy.network is None:
            raise ConfigError("expected a policy with a network, received one of schedules alone")
        self.policy, self._adaptive = policy, adaptive
        self.target: Target | TargetsByRow = target
        self._ranked, self._asked = ranked, False
        self.distrust = ""
        self.tables = Tables(list(policy.tables.values()), policy.pacer)
        self._unmet: dict[int, str] = {}  # by steps; copies share it
        self._gauges = Gauges()  # likewise
        self._turns, self._blends = Turns(), dict[int, Blend]()  # likewise

    def ask(self, target: Target | TargetsByRow) -> None:
        """Follow another target in the request that this copy is for.

        Raises:
            ConfigError: If it is a deadline, and ranks would keep it by different clocks.
        """
        if isinstance(target, Target) and target.deadline_s is not None and self._ranked:
            raise ConfigError(
                "expected no deadline_s of a request that ranks run together, received "
                f"{target}: they would compute different steps; use latency_s"
            )
        self.target, self._asked = target, True

    def reset(self, run: RunInfo) -> None:
        """Choose schedule or network for the request's noise levels.

        Raises:
            BudgetError: If a target of the request alone is out of reach.
        """
        if self.distrust:
            self._delegate: Controller = AllCompute()
        elif self._asked:
            self._delegate = self.choose(run.sigmas)
        else:
            self._delegate = self._usual(run)
        self._delegate.reset(run)

    def _usual(self, run: RunInfo) -> Controller:
        """Return the controller under the target of all, or full compute where that is too much."""
        try:
            return self.choose(run.sigmas, turn=self._turns.take())
        except BudgetError as error:
            self._unmet[run.num_inference_steps] = str(error)
            return AllCompute()

    def hear(self, log: RequestLog) -> None:
        """Learn from a finished request how much time must be kept back for a deadline."""
        limit, pacer = getattr(log.target, "deadline_s", None), self.policy.pacer
        if limit is not None and pacer is not None:
            promised = pacer.pacing.promised_share
            in_time = log.seconds <= limit
            self._gauges.judge(log.modes, in_time=in_time, promised_share=promised)

    def notes(self) -> list[str]:
        """Say what was carried over, and which requests computed everything for want of better."""
        blends = [f"over requests: {blend}" for _, blend in sorted(self._blends.items())]
        return (
            [f"everything is computed: {self.distrust}"] * bool(self.distrust)
            + self.tables.notes()
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
        target, policy = self.target, self.policy
        if isinstance(target, TargetsByRow):
            return StaticSchedule(*(self._of_row(one, sigmas) for one in target.targets))
        if target.deadline_s is not None:
            return DeadlineController(self._pacer(sigmas), target.deadline_s, gauges=self._gauges)
        steps = len(sigmas) - 1
        is_own = self.tables.at(sigmas) is policy.tables.get(steps)
        if target.over == "requests" and is_own:
            both = self._for_floors(sigmas)
            blend = self._blends[steps] = self._blends.get(steps) or target.blend(both)
            return StaticSchedule(blend.at(turn))
        schedule, computes = self._schedule(target, sigmas)
        used = self._adaptive
        if used is None:
            used = is_own and self._is_better(target, steps, computes)
        if not used or policy.network is None:
            return StaticSchedule(schedule)
        return NetworkController(
            policy.manifest.actions,
            policy.network,
            schedule=schedule,
            computes=computes,
            latency_weight=target.tradeoff or 0.0,
        )

    def _schedule(self, target: Target, sigmas: Floats) -> tuple[Schedule, int]:
        """Return the schedule that a target takes, and the site computes that may be spent."""
        policy, table = self.policy, self.tables.at(sigmas)
        cost = policy.cost.for_steps(len(sigmas) - 1)
        if target.names_floor and table is policy.tables.get(len(sigmas) - 1):
            # Of equals the first, which is better on average.
            both = self._for_floors(sigmas)
            table = min(both, key=lambda one: target.computes(one, cost))
        computes = followed = target.computes(table, cost)
        if target.tradeoff is not None:
            followed = policy.objective.best_tradeoff(table, cost, target.tradeoff)
        return table.within(followed), computes

    def _for_floors(self, sigmas: Floats) -> tuple[ScheduleTable, ScheduleTable]:
        """Return the schedules that are best on average, and those that were made for floors."""
        table = self.tables.at(sigmas)
        return table, self.policy.safe.get(table.steps, table)

    def _of_row(self, target: Target, sigmas: Floats) -> Schedule:
        """Return the schedule of a row, full compute where its target is out of reach."""
        try:
            return self._schedule(target, sigmas)[0]
        except BudgetError as error:
            steps = len(sigmas) - 1
            self._unmet[steps] = str(error)
            return Schedule(np.zeros((steps, self.policy.manifest.sites), dtype=np.int8))

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

    def _is_better(self, target: Target, steps: int, computes: int) -> bool:
        """Tell whether the policy says that its network beats its schedule."""
        use = self.policy.manifest.network
        # What the network was compared with are not the schedules for floors.
        if use is None or target.names_floor:
            return False
        if target.tradeoff is not None:
            return use.adaptive_tradeoff
        return computes in use.adaptive.get(str(steps), [])
