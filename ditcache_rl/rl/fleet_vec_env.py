"""The vectorised environment whose rows are played by workers on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.errors import StateError
from ditcache_rl.rl.env import spaces_of
from ditcache_rl.rl.episodes import checked
from ditcache_rl.rl.fleet import Fleet
from ditcache_rl.rl.scenario import Named, Scenario, Task
from ditcache_rl.rl.shared_vec_env import SharedVecEnv
from ditcache_rl.rl.worker import PartStep, RemoteScenario

#: Hears the tasks of a batch that has ended, the gains of its rows, and their `info`.
OnRows: TypeAlias = Callable[[Sequence[Task], NDArray[np.float32], Sequence[dict[str, Any]]], None]


class FleetVecEnv(Named, SharedVecEnv):
    """Rows in parts, one `DenoiseVecEnv` on each worker; all of them end together.

    Tasks are drawn here, in the order of rows, so that the same seed plays the same episodes as in
    one process. A worker that is replaced plays its part again up to the present step.

    Args:
        scenario: Board, prices and schedules.
        rows: Number of environments.
        draw: Draws the task of a row.
        fleet: The workers; they play for one environment at a time, up to its `close`.
        on_rows: Hears every finished batch.

    Raises:
        StateError: If the fleet plays for another environment.
    """

    def __init__(
        self,
        scenario: Scenario,
        rows: int,
        draw: Callable[[], Task],
        *,
        fleet: Fleet,
        on_rows: OnRows | None = None,
    ) -> None:
        import ray

        fleet.lend(self)
        self._scenario, self._draw = scenario, draw
        self._fleet, self._on_rows = fleet, on_rows
        self._scene = ray.put(RemoteScenario.of(scenario))
        self._steps = scenario.board.steps
        self._parts = [part for part in np.array_split(np.arange(rows), len(fleet)) if len(part)]
        self._episode, self._tasks, self._next = -1, list[Task](), list[Task]()
        self._played: list[NDArray[np.int64]] = []
        self._asked: list[tuple[int, Any]] = []
        self._masks: NDArray[np.bool_] | None = None
        super().__init__(rows, *spaces_of(scenario))

    def reset(self) -> VecEnvObs:
        """Draw a task per row and run up to the first decision; after `close`, begin again.

        Raises:
            StateError: If the fleet plays for another environment meanwhile.
        """
        self._fleet.lend(self)
        self._episode += 1
        self._tasks, self._played = self._drawn(), []
        self._ask()
        return self._gathered().observation

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 2).

        Raises:
            ShapeError: If they are not of the action space.
            StateError: If no episode runs.
        """
        if self._masks is None:
            raise StateError("expected a running episode, received none; call reset first")
        self._played.append(checked(actions, (self.num_envs, 2), self._scenario.actions))
        if len(self._played) == self._steps:
            self._next = self._drawn()
        self._ask()

    def step_wait(self) -> VecEnvStepReturn:
        """Play one denoising step; after the last one a new batch has begun."""
        if not self._asked:
            raise StateError("expected step_async before step_wait")
        moment = self._gathered()
        ended = len(self._played) == self._steps
        if ended:
            if self._on_rows is not None:
                self._on_rows(self._tasks, moment.rewards, moment.infos)
            self._episode += 1
            self._tasks, self._next, self._played = self._next, [], []
        dones = np.full(self.num_envs, ended)
        return moment.observation, moment.rewards, dones, moment.infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which patterns and tiers are allowed now: (rows, patterns + tiers)."""
        if self._masks is None:
            raise StateError("expected a running episode, received none; call reset first")
        return self._masks

    def close(self) -> None:
        """Leave the workers to the fleet: what they are asked next ends what they play."""
        self._masks = None
        self._fleet.give_back(self)

    def _drawn(self) -> list[Task]:
        return [self._draw() for _ in range(self.num_envs)]

    def _ask(self) -> None:
        """Ask every worker for its part; what it is told is all that it must know."""
        self._asked = [
            self._fleet.ask(
                worker,
                "play",
                self._scene,
                self._episode,
                [self._tasks[row] for row in part],
                [actions[part] for actions in self._played],
                [self._next[row] for row in part] if self._next else [],
            )
            for worker, part in enumerate(self._parts)
        ]

    def _gathered(self) -> PartStep:
        moments: list[PartStep] = self._fleet.answers(self._asked)
        self._asked = []
        self._masks = np.concatenate([one.masks for one in moments])
        return PartStep(
            np.concatenate([one.observation for one in moments]),
            self._masks,
            np.concatenate([one.rewards for one in moments]),
            [info for one in moments for info in one.infos],
        )
