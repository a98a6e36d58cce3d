"""Episodes of denoising: what the single and the vectorised environment share.

A batch of tasks is one call of the pipeline in a worker thread. Every row decides for itself; all
rows end together, with a terminal reward each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.bench import Board, Case, Quality, budget_of
from ditcache_rl.bench import cases_of as cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import ActionSpace, ActionState, Controller
from ditcache_rl.control.observation import Observation, Target
from ditcache_rl.errors import StateError
from ditcache_rl.inference import tradeoff_budget
from ditcache_rl.instrument import RequestLog
from ditcache_rl.rl.reward import RewardTerms, reward_terms
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.schedules import CostModel
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.types import Mode, StepInfo


class Task(NamedTuple):
    """What one row is asked for; exactly one of budget and latency_weight is positive."""

    case: Case
    budget: int
    """Site computes; 0 under a tradeoff."""
    latency_weight: float


@dataclass(slots=True)
class Setting:
    """What episodes are played on: a board, a price list, and the static plan that they start from.

    Attributes:
        config: The environment.
        board: Pipeline at one step count, with references.
        cost: Prices of schedules.
        plan: Static schedules; the prior of the actions and the paired baseline.
        baselines: Quality of the plan per case and budget, filled as it is needed.
    """

    config: EnvConfig
    board: Board
    cost: CostModel
    plan: Plan
    baselines: dict[tuple[Case, int], tuple[float, float]] = field(default_factory=dict)

    @property
    def actions(self) -> ActionSpace:
        """The discrete actions."""
        return ActionSpace.of(self.board.sites, self.config.tiers)

    def plan_budget(self, task: Task) -> int:
        """Return the budget of the static schedule that a task is compared with."""
        if task.budget:
            return task.budget
        weights = {"psnr": self.config.reward.psnr, "ssim": self.config.reward.ssim}
        return tradeoff_budget(self.plan, self.cost, weights, task.latency_weight)

    def static(self, cases: Sequence[Case], budgets: Sequence[int]) -> Quality:
        """Return what the static schedule of each budget reaches; nothing is drawn twice."""
        keys = list(zip(cases, budgets, strict=True))
        missing = [key for key in dict.fromkeys(keys) if key not in self.baselines]
        if missing:
            rows = [self.plan.row(budget) for _, budget in missing]
            found = self.board.score(
                [case for case, _ in missing],
                [self.actions.patterns[row.patterns] for row in rows],
                [row.weights for row in rows] if self.board.sites == 1 else None,
            )
            self.baselines.update(
                (key, (float(p), float(s)))
                for key, p, s in zip(missing, found.psnr_db, found.ssim, strict=True)
            )
        return Quality(*np.array([self.baselines[key] for key in keys]).T)

    def baseline(self, tasks: Sequence[Task]) -> RewardTerms:
        """Return what the static schedule of each target earns on the same prompt and seed."""
        budgets = [self.plan_budget(task) for task in tasks]
        rows = [self.plan.row(budget).patterns for budget in budgets]
        return self._terms(
            tasks,
            self.static([task.case for task in tasks], budgets),
            self.cost.share_of_reference(self.actions.patterns[np.stack(rows, axis=1)]),
        )

    def earned(self, tasks: Sequence[Task], quality: Quality, log: RequestLog) -> RewardTerms:
        """Return what the rows of a finished call earn."""
        return self._terms(tasks, quality, self.cost.share_of_reference(log.modes))

    def _terms(
        self, tasks: Sequence[Task], quality: Quality, time_share: NDArray[np.float64]
    ) -> RewardTerms:
        return reward_terms(
            self.config.reward,
            psnr_db=quality.psnr_db,
            ssim=quality.ssim,
            time_share=time_share,
            latency_weight=np.array([task.latency_weight for task in tasks]),
        )


class Outcome(NamedTuple):
    """A finished batch."""

    tasks: Sequence[Task]
    images: Tensor
    quality: Quality
    terms: RewardTerms
    log: RequestLog

    def info(self, row: int) -> dict[str, float]:
        """Name the numbers of one row, for `info` of an environment."""
        return {
            "psnr_db": float(self.quality.psnr_db[row]),
            "ssim": float(self.quality.ssim[row]),
            "compute_share": float(self.log.compute_share[row]),
            "reward/psnr": float(self.terms.psnr[row]),
            "reward/ssim": float(self.terms.ssim[row]),
            "reward/latency": float(self.terms.latency[row]),
        }


class Episodes:
    """One batch of rows after the other: `begin`, then `act` until an outcome comes back."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._state = ActionState(setting.actions)
        self._rollout: Rollout[tuple[Tensor, RequestLog]] | None = None
        self._tasks: Sequence[Task] = ()
        self._masks: NDArray[np.bool_]
        #: (rows, features) of the present step; after the last one still that of the last.
        self.observation: Observation

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(rows, patterns + tiers) what is allowed at the present step.

        Raises:
            StateError: If no batch is running.
        """
        self._running()
        return self._masks

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start a batch; one that still runs is unwound."""
        self.close()
        setting = self.setting
        cases = [task.case for task in tasks]
        setting.board.prepare(cases)
        rows = [setting.plan.row(setting.plan_budget(task)) for task in tasks]
        target = Target(
            np.array([task.budget for task in tasks], dtype=np.int64),
            np.array([task.latency_weight for task in tasks], dtype=np.float64),
        )

        def call(controller: Controller) -> tuple[Tensor, RequestLog]:
            return setting.board.draw_under(controller, cases)

        self._tasks = tasks
        self._rollout = Rollout(call)
        event = self._rollout.start()
        assert isinstance(event, StepInfo), "a pipeline asks for a decision before it ends"
        self._state.reset(event.run, target, rows)
        self.observation, self._masks = self._state.observe(event)

    def act(self, actions: NDArray[np.int64]) -> Outcome | None:
        """Play one step.

        Args:
            actions: (rows, 2) pattern and tier of every row.

        Returns:
            The outcome if that was the last step; else None, with `observation` and `masks`
            renewed.

        Raises:
            StateError: If no batch is running.
        """
        event = self._running().advance(self._state.apply(actions))
        if isinstance(event, Finished):
            self._rollout = None
            images, log = event.result
            quality = self.setting.board.judge(images, [task.case for task in self._tasks])
            return Outcome(
                self._tasks, images, quality, self.setting.earned(self._tasks, quality, log), log
            )
        self.observation, self._masks = self._state.observe(event)
        return None

    def close(self) -> None:
        """Unwind a batch that still runs; idempotent."""
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def _running(self) -> Rollout[tuple[Tensor, RequestLog]]:
        if self._rollout is None:
            raise StateError("expected a running episode, received none; call reset first")
        return self._rollout


def project(
    actions: NDArray[np.int64], masks: NDArray[np.bool_], actions_of: ActionSpace
) -> NDArray[np.int64]:
    """Replace infeasible actions by the nearest feasible ones.

    Nearest is the feasible pattern whose number of computed sites is closest, the first of equals.
    Where no pattern is feasible (the cache has no room, so nothing can be reused), everything is
    computed.

    Args:
        actions: (rows, 2) pattern and tier.
        masks: (rows, patterns + tiers).
        actions_of: The discrete actions.
    """
    patterns = len(actions_of.patterns)
    costs = (actions_of.patterns == 0).sum(axis=1)
    projected = actions.copy()
    for row, (pattern, tier) in enumerate(actions):
        if not masks[row, pattern]:
            feasible = np.flatnonzero(masks[row, :patterns])
            distance = np.abs(costs[feasible] - costs[pattern])
            projected[row, 0] = feasible[np.argmin(distance)] if len(feasible) else Mode.COMPUTE
        if not masks[row, patterns + tier]:
            projected[row, 1] = np.flatnonzero(masks[row, patterns:])[0]
    return projected


def draw_task(
    config: EnvConfig,
    cases: Sequence[Case],
    site_steps: int,
    rng: np.random.Generator,
    *,
    tradeoffs: bool = True,
) -> Task:
    """Draw a case and a target."""
    case = cases[int(rng.integers(len(cases)))]
    if tradeoffs and rng.random() < config.targets.tradeoff_share:
        low, high = config.reward.latency_weights
        return Task(case, 0, float(rng.uniform(low, high)))
    share = float(rng.choice(config.targets.budgets))
    return Task(case, budget_of(share, site_steps), 0.0)


def infos_of(outcome: Outcome) -> list[Mapping[str, float]]:
    """Return the info of every row."""
    return [outcome.info(row) for row in range(len(outcome.tasks))]
