"""The Gymnasium environment: one episode is one image, one step one denoising step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.control.actions import checked
from ditcache_rl.control.observation import Observation
from ditcache_rl.errors import ConfigError
from ditcache_rl.rl.episodes import Episodes
from ditcache_rl.rl.hooks import Hooks
from ditcache_rl.rl.scenario import Named, Scenario, Task


class DenoiseEnv(Named, gym.Env[Observation, NDArray[np.int64]]):
    """Denoise one image, choosing at every step what is computed and where it is kept.

    The observation is what `observation_names` says; the action is a pair (pattern, tier), which
    `action_names` names. An action that the target does not allow is projected onto the nearest one
    that it does, and `info["projected"]` says so; `action_masks` tells beforehand. The reward is
    terminal. A copy, pickled or not, is a new environment with the same arguments.

    Args:
        config: An environment file or its name.
        steps: Denoising steps; None for the first of the environment.
        scenario: Board, prices and schedules to play on; None for the nominal one, in which time is
            the share of computed sites, so that two copies agree on every machine.
        hooks: A reward, features and patterns of one's own; None for those of the scenario.
        part: Prompts to draw from: "train", "select" or "test".
        render_mode: "rgb_array" to see the images come into being.

    Raises:
        ConfigError: If the environment is not there or not valid, or has no such steps or mode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        config: str = "shapes",
        *,
        steps: int | None = None,
        scenario: Scenario | None = None,
        hooks: Hooks | None = None,
        part: str = "train",
        render_mode: str | None = None,
    ) -> None:
        check_mode(render_mode)
        self._arguments = {
            "config": config,
            "steps": steps,
            "scenario": scenario,
            "hooks": hooks,
            "part": part,
            "render_mode": render_mode,
        }
        self._scenario = scenario_of(config, steps, scenario, hooks)
        self._cases = cases_of(self._scenario.config, part)
        self._episodes = Episodes(self._scenario, watched=render_mode is not None)
        self.render_mode = render_mode
        observations, self.action_space = spaces_of(self._scenario)
        self.observation_space = observations  # type: ignore[assignment]  # Box of float32

    def __reduce__(self) -> Any:
        return _again, (type(self), self._arguments, self.spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a prompt, its seed and a target, and run up to the first decision."""
        super().reset(seed=seed)
        task = Task.drawn(self._scenario, self._cases, self.np_random)
        self._episodes.begin([task])
        return self._episodes.observation[0], task.info()

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one denoising step.

        Raises:
            ShapeError: If the action is not of the action space.
            StateError: If no episode is running.
        """
        wanted = checked(action, (2,), self._scenario.actions.counts)
        outcome, projected = self._episodes.play(wanted[None])
        info: dict[str, Any] = {"projected": bool(projected[0])}
        if outcome is None:
            return self._episodes.observation[0], 0.0, False, False, info
        reward = float(outcome.returns[0])
        # There is no new observation; a copy, as callers keep what they are given.
        last = self._episodes.observation[0].copy()
        return last, reward, True, False, info | outcome.info(0)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which patterns and tiers are allowed now: (patterns + tiers,)."""
        return np.asarray(self._episodes.masks[0])

    def render(self) -> NDArray[np.uint8] | None:
        """Return the clean image that the last step predicts, (H, W, 3); black at the start.

        Raises:
            StateError: If no episode has begun.
        """
        return None if self.render_mode is None else self._episodes.frames()[0]

    def close(self) -> None:
        """Unwind an episode that still runs."""
        self._episodes.close()


def _again(kind: type[DenoiseEnv], arguments: dict[str, Any], spec: Any) -> DenoiseEnv:
    """Make an environment of the arguments of another one."""
    made = kind(**arguments)
    made.spec = spec
    return made


def check_mode(render_mode: str | None) -> None:
    """Check how images are to be seen.

    Raises:
        ConfigError: If that is not known.
    """
    if render_mode not in (None, "rgb_array"):
        raise ConfigError(f"expected render_mode None or 'rgb_array', received {render_mode!r}")


def scenario_of(
    config: str, steps: int | None, scenario: Scenario | None, hooks: Hooks | None
) -> Scenario:
    """Return the scenario that the arguments of an environment ask for.

    Raises:
        ConfigError: If the environment is not there, not valid, or has no such steps.
    """
    if scenario is None:
        return Scenario.nominal(load_env(config), steps=steps, hooks=hooks)
    return scenario if hooks is None else replace(scenario, hooks=hooks, baselines={})


def spaces_of(scenario: Scenario) -> tuple[spaces.Box, spaces.MultiDiscrete]:
    """Return observation and action space of a scenario."""
    actions = scenario.actions
    # The prior goes up to twice its sharpness; everything else is clipped far below.
    box = spaces.Box(-10.0, 10.0, (len(actions.schema()),), np.float32)
    return box, spaces.MultiDiscrete([len(actions.patterns), len(actions.tiers)])
