"""The environment of `gymnasium.make_vec`: the rows of one pipeline call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ditcache_rl.bench import cases_of
from ditcache_rl.control.actions import checked
from ditcache_rl.control.observation import Observation
from ditcache_rl.rl.env import DenoiseEnv, check_mode, scenario_of, spaces_of
from ditcache_rl.rl.episodes import Episodes
from ditcache_rl.rl.hooks import Hooks
from ditcache_rl.rl.scenario import Named, Scenario, Task

Flags = NDArray[np.bool_]


class DenoiseVectorEnv(Named, VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """As many environments as rows, which end together, and begin anew at the step after that.

    Row i does what a `DenoiseEnv` does under the seed plus i, for the price of a row.

    Args:
        num_envs: Rows of a pipeline call.
        config: As that of `DenoiseEnv`, and so are the others.
        steps: Denoising steps.
        scenario: What is played in.
        hooks: A reward, features and patterns of one's own.
        part: Prompts to draw from.
        render_mode: "rgb_array" to see the images come into being.

    Raises:
        ConfigError: As `DenoiseEnv`.
    """

    metadata = DenoiseEnv.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        config: str = "shapes",
        *,
        steps: int | None = None,
        scenario: Scenario | None = None,
        hooks: Hooks | None = None,
        part: str = "train",
        render_mode: str | None = None,
    ) -> None:
        check_mode(render_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self._scenario = scenario_of(config, steps, scenario, hooks)
        self._cases = cases_of(self._scenario.config, part)
        self._episodes = Episodes(self._scenario, watched=render_mode is not None)
        self._draws: list[np.random.Generator] = []
        self._ended = False
        self.single_observation_space, self.single_action_space = spaces_of(self._scenario)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a prompt, its seed and a target for every row, and run up to the first decision."""
        super().reset(seed=seed)
        if seed is not None or not self._draws:
            first = self.np_random_seed if seed is None else seed
            assert first is not None, "drawn where none was given"
            self._draws = [seeding.np_random(first + row)[0] for row in range(self.num_envs)]
        return self._begin()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Play one denoising step of all rows; after the last one, begin anew instead.

        Raises:
            ShapeError: If the actions are not of the action space.
            StateError: If no episodes are running.
        """
        wanted = checked(actions, (self.num_envs, 2), self._scenario.actions.counts)
        rewards, never = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        if self._ended:
            observation, infos = self._begin()
            return observation, rewards, never, never.copy(), infos
        outcome, projected = self._episodes.play(wanted)
        infos = {}
        for row in range(self.num_envs):
            facts = {} if outcome is None else outcome.info(row)
            infos = self._add_info(infos, {"projected": bool(projected[row]), **facts}, row)
        if outcome is not None:
            rewards = outcome.returns
        self._ended = outcome is not None
        ended = np.full(self.num_envs, self._ended)
        return self._episodes.observation.copy(), rewards, ended, never, infos

    def action_masks(self) -> Flags:
        """Return which patterns and tiers are allowed now: (rows, patterns + tiers)."""
        return self._episodes.masks

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the clean images that the last step predicts, (H, W, 3) each."""
        return None if self.render_mode is None else tuple(self._episodes.frames())

    def close_extras(self, **kwargs: Any) -> None:
        """Unwind episodes that still run."""
        self._episodes.close()

    def _begin(self) -> tuple[Observation, dict[str, Any]]:
        tasks = [Task.drawn(self._scenario, self._cases, draws) for draws in self._draws]
        self._episodes.begin(tasks)
        self._ended = False
        infos: dict[str, Any] = {}
        for row, task in enumerate(tasks):
            infos = self._add_info(infos, task.info(), row)
        return self._episodes.observation.copy(), infos
