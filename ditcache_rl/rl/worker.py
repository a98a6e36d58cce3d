"""What runs on a worker: a replica of the pipeline that plays rows and scores cases.

What it is asked tells it all that it must know, so that another one can be asked in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.bench import Board, Case, MemoryWorld, Quality
from ditcache_rl.config import EnvConfig
from ditcache_rl.control.observation import Observation
from ditcache_rl.pipelines import open_shared, twin
from ditcache_rl.rl.hooks import Hooks
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.vec_env import DenoiseVecEnv
from ditcache_rl.schedules import CostModel, Schedule, ScheduleTable


class RemoteScenario(NamedTuple):
    """What a worker needs to know of a scenario to make its own."""

    config: EnvConfig
    steps: int
    cost: CostModel
    table: ScheduleTable
    memory: MemoryWorld | None
    hooks: Hooks

    @classmethod
    def of(cls, scenario: Scenario) -> RemoteScenario:
        """Take everything but the board."""
        board = scenario.board
        return cls(
            scenario.config,
            board.steps,
            scenario.cost,
            scenario.table,
            scenario.memory,
            scenario.hooks,
        )


@dataclass(frozen=True, slots=True)
class PartStep:
    """Where the rows of a part are, and what their last step earned."""

    observation: Observation
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    infos: list[dict[str, Any]]


class Worker:
    """A replica of the pipeline, and what is played and scored on it.

    Args:
        config: The environment.
        threads: Of torch; 0 to leave them as they are.
    """

    def __init__(self, config: EnvConfig, *, threads: int = 0) -> None:
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._config = config
        self._boards: dict[int, Board] = {}
        self._env: DenoiseVecEnv | None = None
        self._draws: Iterator[Task] = iter(())
        #: The episode that runs, and how many of its steps were played.
        self._at = -1, 0

    def score(self, steps: int, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Do what `Board.score` does; an episode that runs is left, and played again if asked."""
        if self._env is not None:
            self._env.close()
        self._at = -1, 0
        return self._board(steps).score(cases, schedules)

    def play(
        self,
        scene: RemoteScenario,
        episode: int,
        tasks: Sequence[Task],
        actions: Sequence[NDArray[np.int64]],
        then: Sequence[Task],
    ) -> PartStep:
        """Play the rows of an episode up to the last of the actions.

        Args:
            scene: What is played in.
            episode: Number of the episode.
            tasks: One per row.
            actions: Of all steps so far, (rows, 2) each. What was played here is not played again.
            then: Tasks of the next episode, which begins after the last step of this one.
        """
        rewards = np.zeros(len(tasks), dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in tasks]
        observation: Any = None
        fresh = actions[-1:]
        if self._env is None or not actions or self._at != (episode, len(actions) - 1):
            self._draws, fresh = iter(tasks), actions
            observation = self._begin(scene, len(tasks)).reset()
        assert self._env is not None, "begun above"
        self._draws = iter(then)
        for one in fresh:
            observation, rewards, _, infos = self._env.step(one)
        ended = len(actions) == scene.steps
        self._at = (episode + 1, 0) if ended else (episode, len(actions))
        return PartStep(observation, self._env.action_masks().copy(), rewards, infos)

    def _begin(self, scene: RemoteScenario, rows: int) -> DenoiseVecEnv:
        if self._env is not None:
            self._env.close()
        board = self._board(scene.steps)
        scenario = Scenario(scene.config, board, scene.cost, scene.table, scene.memory, scene.hooks)
        self._env = DenoiseVecEnv(scenario, rows, lambda: next(self._draws))
        return self._env

    def _board(self, steps: int) -> Board:
        if steps not in self._boards:
            pipe = twin(open_shared(self._config.pipeline))
            self._boards[steps] = Board.of(self._config, pipe, steps=steps)
        return self._boards[steps]
