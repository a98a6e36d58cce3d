"""What episodes are played on: pipeline, prices, schedules to start from, and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.bench import Board, Case, Quality, named_computes
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import ActionSpace
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import RequestLog
from ditcache_rl.pipelines import open_shared, twin
from ditcache_rl.policy import Policy
from ditcache_rl.rl.hooks import Hooks
from ditcache_rl.rl.reward import RewardTerms, reward_terms
from ditcache_rl.schedules import (
    CostModel,
    Objective,
    Schedule,
    ScheduleTable,
    nominal_cost,
    spaced_table,
)
from ditcache_rl.types import Floats


class Task(NamedTuple):
    """What one row is asked for; exactly one of computes and latency_weight is positive."""

    case: Case
    computes: int
    """Site computes that are spent; 0 under a tradeoff."""
    latency_weight: float

    @classmethod
    def drawn(cls, scenario: Scenario, cases: Sequence[Case], rng: np.random.Generator) -> Task:
        """Draw a case and a target of the environment."""
        config = scenario.config
        case = cases[int(rng.integers(len(cases)))]
        if rng.random() < config.targets.tradeoff_share:
            low, high = config.reward.latency_weights
            return cls(case, 0, float(rng.uniform(low, high)))
        return cls(case, int(rng.choice(named_computes(config, scenario.board.steps))), 0.0)

    def info(self) -> dict[str, Any]:
        """Say what is asked for, as the `info` of an environment."""
        return {
            "prompt": self.case.prompt,
            "computes": self.computes,
            "latency_weight": self.latency_weight,
        }


@dataclass(slots=True)
class Scenario:
    """A board, a price list, and the schedules that episodes start from.

    Attributes:
        config: The environment.
        board: Pipeline at one step count, with references.
        cost: Prices of schedules.
        table: The prior of the actions and the paired baseline.
        hooks: What a user puts in place of ours.
        baselines: Quality of the table's schedules by case and computes, filled as it is needed.
    """

    config: EnvConfig
    board: Board
    cost: CostModel
    table: ScheduleTable
    hooks: Hooks = field(default_factory=Hooks)
    baselines: dict[tuple[Case, int], tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def nominal(
        cls, config: EnvConfig, *, steps: int | None = None, hooks: Hooks | None = None
    ) -> Scenario:
        """Take evenly spaced schedules, and count time in computed sites: nothing is measured.

        Raises:
            ConfigError: If the step count is not one of the environment's.
        """
        chosen = steps or config.steps[0]
        if chosen not in config.steps:
            raise ConfigError(
                f"{config.path}: expected steps among {config.steps}, received {chosen}"
            )
        board = Board.of(config, twin(open_shared(config.pipeline)), steps=chosen)
        table = spaced_table(board.sigmas(), board.sites)
        return cls(config, board, nominal_cost(chosen, board.sites), table, hooks or Hooks())

    @classmethod
    def of(cls, config: EnvConfig, policy: Policy, *, hooks: Hooks | None = None) -> Scenario:
        """Start from the schedules of a policy for the same environment, at its first step count.

        Raises:
            ConfigError: If the policy was made for other sites.
        """
        known, own = policy.manifest, config.cache
        if (known.sites, known.blocks) != (own.sites, own.blocks):
            raise ConfigError(
                f"{config.path}: expected a policy for {own.sites} sites of {own.blocks!r}, "
                f"received one for {known.sites} of {known.blocks!r}"
            )
        steps = policy.steps[0]
        board = Board.of(config, twin(open_shared(config.pipeline)), steps=steps)
        return cls(config, board, policy.cost, policy.tables[steps], hooks or Hooks())

    @property
    def actions(self) -> ActionSpace:
        """The discrete actions."""
        return ActionSpace.of(
            self.board.sites,
            self.config.tiers,
            patterns=self.hooks.patterns,
            features=self.hooks.features,
        )

    def scheduled(self, task: Task) -> Schedule:
        """Return the static schedule that a task is compared with."""
        if task.computes:
            return self.table.within(task.computes)
        objective = Objective.of(self.config.reward)
        best = objective.best_tradeoff(self.table, self.cost, task.latency_weight)
        return self.table.within(best)

    def static(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Return what schedules of the table reach; nothing is drawn twice."""
        keys = [(case, one.computes) for case, one in zip(cases, schedules, strict=True)]
        asked = dict(zip(keys, schedules, strict=True))
        missing = [key for key in asked if key not in self.baselines]
        if missing:
            found = self.board.score([case for case, _ in missing], [asked[key] for key in missing])
            self.baselines.update(
                (key, (float(p), float(s)))
                for key, p, s in zip(missing, found.psnr_db, found.ssim, strict=True)
            )
        return Quality(*np.array([self.baselines[key] for key in keys]).T)

    def baseline(self, tasks: Sequence[Task]) -> RewardTerms:
        """Return what the static schedule of each target earns on the same prompt and seed."""
        schedules = [self.scheduled(task) for task in tasks]
        return self._terms(
            tasks,
            self.static([task.case for task in tasks], schedules),
            self.cost.share_of_reference(np.stack([one.modes for one in schedules], axis=1)),
        )

    def returns(self, terms: RewardTerms) -> Floats:
        """Return what terms come to: (rows,)."""
        return self.hooks.returns(terms)

    def earned(self, tasks: Sequence[Task], quality: Quality, log: RequestLog) -> RewardTerms:
        """Return what the rows of a finished call earn."""
        return self._terms(tasks, quality, self.cost.share_of_reference(log.modes))

    def _terms(
        self, tasks: Sequence[Task], quality: Quality, time_share: NDArray[np.float64]
    ) -> RewardTerms:
        return reward_terms(
            Objective.of(self.config.reward),
            quality,
            time_share=time_share,
            latency_weight=np.array([task.latency_weight for task in tasks]),
        )
