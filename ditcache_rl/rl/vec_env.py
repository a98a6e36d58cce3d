"""The vectorised environment that trains: the rows of one pipeline call, decisions per row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.control.actions import checked
from ditcache_rl.errors import StateError
from ditcache_rl.rl.env import spaces_of
from ditcache_rl.rl.episodes import Episodes, Outcome
from ditcache_rl.rl.scenario import Named, Scenario, Task
from ditcache_rl.rl.shared_vec_env import SharedVecEnv


class DenoiseVecEnv(Named, SharedVecEnv):
    """N rows of one pipeline call; all of them end together.

    The reward is the return minus that of the best static schedule on the same prompt, seed and
    target.

    Args:
        scenario: Board, prices and schedules.
        rows: Number of environments.
        draw: Draws the task of a row.
        episodes: Plays the rows; those of the scenario's own board by default.
        on_outcome: Hears every finished batch with the baseline of its rows.
    """

    def __init__(
        self,
        scenario: Scenario,
        rows: int,
        draw: Callable[[], Task],
        *,
        episodes: Episodes | None = None,
        on_outcome: Callable[[Outcome, NDArray[np.float64]], None] | None = None,
    ) -> None:
        self._scenario = scenario
        self._draw, self._on_outcome = draw, on_outcome
        self._episodes = episodes or Episodes(scenario)
        self._actions: NDArray[np.int64] | None = None
        super().__init__(rows, *spaces_of(scenario))

    def reset(self) -> VecEnvObs:
        """Draw a task per row and run up to the first decision."""
        self._episodes.begin([self._draw() for _ in range(self.num_envs)])
        return self._episodes.observation.copy()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 2).

        Raises:
            ShapeError: If they are not of the action space.
        """
        self._actions = checked(actions, (self.num_envs, 2), self._scenario.actions.counts)

    def step_wait(self) -> VecEnvStepReturn:
        """Play one denoising step; after the last one a new batch has begun."""
        if self._actions is None:
            raise StateError("expected step_async before step_wait")
        actions, self._actions = self._actions, None
        outcome, _ = self._episodes.play(actions)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.full(self.num_envs, outcome is not None)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if outcome is None:
            return self._episodes.observation.copy(), rewards, dones, infos
        baseline = self._scenario.returns(self._scenario.baseline(outcome.tasks))
        rewards = (outcome.returns - baseline).astype(np.float32)
        last = self._episodes.observation.copy()
        for row in range(len(outcome.tasks)):
            infos[row] = {
                **outcome.info(row),
                "baseline": float(baseline[row]),
                "modes": outcome.modes[:, row],
                "terminal_observation": last[row],
            }
        if self._on_outcome is not None:
            self._on_outcome(outcome, baseline)
        return self.reset(), rewards, dones, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which patterns and tiers are allowed now: (rows, patterns + tiers)."""
        return self._episodes.masks

    def close(self) -> None:
        """Unwind a batch that still runs."""
        self._episodes.close()
