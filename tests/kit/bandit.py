"""A bandit with the spaces of a denoising environment, on which algorithms learn in a second."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ditcache_rl.schedules.patterns import action_prior

PATTERNS, TIERS, FEATURES = 4, 2, 6


class Blank(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Has the spaces of a denoising environment and nothing else."""

    def __init__(self) -> None:
        """Make the spaces."""
        self.observation_space: Any = spaces.Box(-10, 10, (FEATURES + PATTERNS + TIERS,))
        self.action_space: Any = spaces.MultiDiscrete([PATTERNS, TIERS])


class Bandit(VecEnv):
    """Contexts name the pattern that pays; the prior prefers the next one.

    The observation is laid out as that of a denoising environment: features, then the log-prior.
    """

    rows = 64

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        blank = Blank()
        super().__init__(self.rows, blank.observation_space, blank.action_space)

    def _draw(self) -> NDArray[np.float32]:
        self._paying = self._rng.integers(PATTERNS, size=self.rows)
        features = np.zeros((self.rows, FEATURES))
        features[np.arange(self.rows), self._paying] = 1
        wrong = (self._paying + 1) % PATTERNS
        prior = action_prior(wrong, PATTERNS, TIERS, sharpness=2.0)
        return np.concatenate([features, prior], axis=1).astype(np.float32)

    def reset(self) -> NDArray[np.float32]:
        return self._draw()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        rewards = (self._actions[:, 0] == self._paying).astype(np.float32)
        return self._draw(), rewards, np.ones(self.rows, bool), [{} for _ in range(self.rows)]

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        return list(np.ones((self.rows, PATTERNS + TIERS), dtype=bool))

    def has_attr(self, attr_name: str) -> bool:
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.rows

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.rows

    def close(self) -> None:
        pass
