"""What episodes are played on: pipeline, prices, schedules to start from, and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.bench import (
    Bill,
    Board,
    Case,
    ImageMemory,
    MemoryWorld,
    Quality,
    bill_of,
    named_computes,
)
from ditcache_rl.cache.rates import Transfers
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import ActionSpace
from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import check_identity, open_shared, twin
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
from ditcache_rl.types import Floats, Modes, Tier

#: Worlds that training meets; more than it has episodes.
_WORLDS = 2**31


class Task(NamedTuple):
    """What one row is asked for; exactly one of computes and latency_weight is positive."""

    case: Case
    computes: int
    """Site computes that are spent; 0 under a tradeoff."""
    latency_weight: float
    world: int = 0
    """Seed of what the world does while the image is made."""

    @classmethod
    def drawn(cls, scenario: Scenario, cases: Sequence[Case], rng: np.random.Generator) -> Task:
        """Draw a case and a target of the environment."""
        config = scenario.config
        case = cases[int(rng.integers(len(cases)))]
        computes, weight = 0, 0.0
        if rng.random() < config.targets.tradeoff_share:
            low, high = config.reward.latency_weights
            weight = float(rng.uniform(low, high))
        else:
            computes = int(rng.choice(named_computes(config, scenario.board.steps)))
        world = int(rng.integers(_WORLDS)) if scenario.memory is not None else 0
        return cls(case, computes, weight, world)

    def info(self) -> dict[str, Any]:
        """Say what is asked for, as the `info` of an environment."""
        return {
            "prompt": self.case.prompt,
            "computes": self.computes,
            "latency_weight": self.latency_weight,
        }


class Named:
    """What environments on a scenario say of their numbers."""

    _scenario: Scenario

    @property
    def observation_names(self) -> tuple[str, ...]:
        """What the numbers of an observation are called."""
        return self._scenario.actions.schema()

    @property
    def action_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the patterns and the tiers are called."""
        return self._scenario.actions.names()


@dataclass(slots=True)
class Scenario:
    """A board, a price list, and the schedules that episodes start from.

    Attributes:
        config: The environment.
        board: Pipeline at one step count, with references.
        cost: Prices of schedules.
        table: The prior of the actions and the paired baseline.
        memory: What memory costs and how it moves; None where it is free.
        hooks: What a user puts in place of ours.
        baselines: PSNR and SSIM of schedules by case, filled as it is needed; see `known_as`.
    """

    config: EnvConfig
    board: Board
    cost: CostModel
    table: ScheduleTable
    memory: MemoryWorld | None = None
    hooks: Hooks = field(default_factory=Hooks)
    baselines: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory is None and self.config.world.prices_memory:
            self.memory = MemoryWorld.of(self.config, self.board, self.cost)

    @classmethod
    def nominal(
        cls, config: EnvConfig, *, steps: int | None = None, hooks: Hooks | None = None
    ) -> Scenario:
        """Take evenly spaced schedules, and count time in computed sites: nothing is measured.

        Transfers that an environment would have measured take no time then.

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
        cost, memory = nominal_cost(chosen, board.sites), None
        if config.world.transfers == "measured":
            memory = MemoryWorld.of(config, board, cost, Transfers())
        return cls(config, board, cost, table, memory, hooks or Hooks())

    @classmethod
    def of(cls, config: EnvConfig, policy: Policy, *, hooks: Hooks | None = None) -> Scenario:
        """Start from the schedules of a policy for the same environment, at its first step count.

        Raises:
            ConfigError: If the policy was made for other sites.
            ArtifactError: If it was made for another model.
        """
        known, own = policy.manifest, config.cache
        if (known.sites, known.blocks) != (own.sites, own.blocks):
            raise ConfigError(
                f"{config.path}: expected a policy for {own.sites} sites of {own.blocks!r}, "
                f"received one for {known.sites} of {known.blocks!r}"
            )
        pipe, steps = open_shared(config.pipeline), policy.steps[0]
        check_identity(known, pipe)
        board = Board.of(config, twin(pipe), steps=steps)
        return cls(config, board, policy.cost, policy.tables[steps], hooks=hooks or Hooks())

    @property
    def actions(self) -> ActionSpace:
        """The discrete actions."""
        return ActionSpace.of(
            self.board.sites,
            self.config.tiers,
            memory=self.config.world.prices_memory,
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
        """Return what schedules reach; nothing is drawn twice."""
        keys = [known_as(*pair) for pair in zip(cases, schedules, strict=True)]
        pairs = dict(zip(keys, zip(cases, schedules, strict=True), strict=True))
        missing = [pair for key, pair in pairs.items() if key not in self.baselines]
        if missing:
            columns = [case for case, _ in missing], [one for _, one in missing]
            self.remember(*columns, self.board.score(*columns))
        return Quality(*np.array([self.baselines[key] for key in keys]).T)

    def remember(
        self, cases: Sequence[Case], schedules: Sequence[Schedule], quality: Quality
    ) -> None:
        """Note what schedules reach."""
        for case, schedule, psnr_db, ssim in zip(cases, schedules, *quality, strict=True):
            self.baselines[known_as(case, schedule)] = float(psnr_db), float(ssim)

    def baseline(self, tasks: Sequence[Task]) -> RewardTerms:
        """Return what the static schedule of each target earns on the same prompt and seed."""
        return self.followed(tasks, [self.scheduled(task) for task in tasks])

    def followed(
        self, tasks: Sequence[Task], schedules: Sequence[Schedule], *, known: bool = True
    ) -> RewardTerms:
        """Return what static schedules earn in the world of each task.

        Args:
            tasks: What is asked for.
            schedules: One per task.
            known: Whether the cache knows them beforehand, or guesses.
        """
        bill, done = None, list(schedules)
        if self.memory is not None:
            pairs = list(zip(tasks, schedules, strict=True))
            images = [self.memory.play(one, task.world, known=known) for task, one in pairs]
            bill = bill_of(images)
            done = [_effective(one, image) for one, image in zip(schedules, images, strict=True)]
        return self._terms(
            tasks,
            self.static([task.case for task in tasks], done),
            self.cost.share_of_reference(np.stack([one.modes for one in done], axis=1)),
            bill,
        )

    def returns(self, terms: RewardTerms) -> Floats:
        """Return what terms come to: (rows,)."""
        return self.hooks.returns(terms)

    def earned(
        self, tasks: Sequence[Task], quality: Quality, modes: Modes, bill: Bill | None = None
    ) -> RewardTerms:
        """Return what the rows of a finished call earn, less what memory costs.

        Args:
            tasks: What was asked for.
            quality: What was reached.
            modes: (steps, rows, sites) that were played.
            bill: Of memory.
        """
        return self._terms(tasks, quality, self.cost.share_of_reference(modes), bill)

    def _terms(
        self,
        tasks: Sequence[Task],
        quality: Quality,
        time_share: NDArray[np.float64],
        bill: Bill | None,
    ) -> RewardTerms:
        world = self.config.world
        # Where entries are waited for or lost, computes do not fix the time.
        bound = 0.0 if bill is None else world.wait_weight
        return reward_terms(
            Objective.of(self.config.reward),
            quality,
            time_share=time_share if bill is None else time_share + bill.wait_share,
            latency_weight=np.array([bound if t.computes else t.latency_weight for t in tasks]),
            memory=None if bill is None else world.memory_weight * bill.resident_share,
        )


class BareScenario(NamedTuple):
    """A scenario without its board, for whoever has a replica of that."""

    config: EnvConfig
    steps: int
    cost: CostModel
    table: ScheduleTable
    memory: MemoryWorld | None
    hooks: Hooks

    @classmethod
    def of(cls, scenario: Scenario) -> BareScenario:
        """Take everything but the board, and what is known of images."""
        one = scenario
        return cls(one.config, one.board.steps, one.cost, one.table, one.memory, one.hooks)

    def on(self, board: Board) -> Scenario:
        """Return the scenario on a replica of its board."""
        return Scenario(self.config, board, self.cost, self.table, self.memory, self.hooks)


def known_as(case: Case, schedule: Schedule) -> str:
    """Name what a schedule reaches on a case, in every process alike."""
    return f"{schedule.digest} {case.seed} {case.prompt}"


def _effective(schedule: Schedule, image: ImageMemory) -> Schedule:
    """Return the schedule that does what became of one; where entries lie changes no image."""
    modes, tiers = np.stack(image.modes), schedule.tiers
    if tiers is not None and not (tiers == Tier.DROP).any():
        tiers = None
    return replace(schedule, modes=modes, tiers=tiers)
