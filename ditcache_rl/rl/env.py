"""The Gymnasium environment: one episode is one image, one step one denoising step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.control.observation import Observation
from ditcache_rl.rl.episodes import Episodes, project
from ditcache_rl.rl.scenario import Scenario, Task


class DenoiseEnv(gym.Env[Observation, NDArray[np.int64]]):
    """Denoise one image, choosing at every step what is computed and where it is kept.

    The observation is that of `features.schema`; the action is a pair (pattern, tier). An action
    that the target does not allow is projected onto the nearest one that it does, and
    `info["projected"]` says so; `action_masks` tells beforehand. The reward is terminal.

    Args:
        config: An environment file or its name.
        steps: Denoising steps; None for the first of the environment.
        scenario: Board, prices and schedules to play on; None for the nominal one, in which time is
            the share of computed sites, so that two copies agree on every machine.
        part: Prompts to draw from: "train", "select" or "test".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        config: str = "shapes",
        *,
        steps: int | None = None,
        scenario: Scenario | None = None,
        part: str = "train",
        render_mode: str | None = None,
    ) -> None:
        self._config = load_env(config) if scenario is None else scenario.config
        self._scenario = scenario or Scenario.nominal(self._config, steps=steps)
        self._cases = cases_of(self._config, part)
        self._episodes = Episodes(self._scenario)
        self._image: NDArray[np.uint8] | None = None
        self.render_mode = render_mode
        observations, self.action_space = spaces_of(self._scenario)
        self.observation_space = observations  # type: ignore[assignment]  # Box of float32

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a prompt, its seed and a target, and run up to the first decision."""
        super().reset(seed=seed)
        task = Task.drawn(self._scenario, self._cases, self.np_random)
        self._episodes.begin([task])
        info = {
            "prompt": task.case.prompt,
            "computes": task.computes,
            "latency_weight": task.latency_weight,
        }
        return self._episodes.observation[0], info

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one denoising step.

        Raises:
            StateError: If no episode is running.
        """
        wanted = np.asarray(action, dtype=np.int64)[None]
        played = project(wanted, self._episodes.masks, self._scenario.actions)
        outcome = self._episodes.act(played)
        info: dict[str, Any] = {"projected": bool((wanted != played).any())}
        if outcome is None:
            return self._episodes.observation[0], 0.0, False, False, info
        image = outcome.images[0].permute(1, 2, 0).numpy()
        self._image = np.asarray((image * 255).round(), dtype=np.uint8)
        reward = float(outcome.terms.total[0])
        # There is no new observation; a copy, as callers keep what they are given.
        last = self._episodes.observation[0].copy()
        return last, reward, True, False, info | outcome.info(0)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which patterns and tiers are allowed now: (patterns + tiers,)."""
        return np.asarray(self._episodes.masks[0])

    def render(self) -> NDArray[np.uint8] | None:
        """Return the last finished image, (H, W, 3), black before there is one."""
        if self.render_mode is None:
            return None
        if self._image is None:
            return np.zeros((64, 64, 3), dtype=np.uint8)
        return self._image

    def close(self) -> None:
        """Unwind an episode that still runs."""
        self._episodes.close()


def spaces_of(scenario: Scenario) -> tuple[spaces.Box, spaces.MultiDiscrete]:
    """Return observation and action space of a scenario."""
    actions = scenario.actions
    # The prior goes up to twice its sharpness; everything else is clipped far below.
    box = spaces.Box(-10.0, 10.0, (len(actions.schema()),), np.float32)
    return box, spaces.MultiDiscrete([len(actions.patterns), len(actions.tiers)])
