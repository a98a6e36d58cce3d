"""Learn to keep deadlines: the vectorised environment of simulated images, and PPO on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from gymnasium import spaces

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.errors import StateError
from ditcache_rl.rl.policy import MaskablePriorPolicy, exported
from ditcache_rl.types import Floats
from ditcache_rl.world.agent import PRIOR, agent_input
from ditcache_rl.world.moment import NAMES, Moment
from ditcache_rl.world.simulator import Decide, Requests, played


class DeadlineVecEnv(VecEnv):
    """Rows of simulated images; an action tells whether a row computes its step.

    The reward comes with the last step: a tenth of the PSNR in dB plus the price of lateness for an
    image in time, nothing for a late one, minus what the prior earns on the same image.

    Args:
        draw: Begins a batch of images.
        prior: What the policy starts from.
        price: Of lateness, in tenths of a decibel's tenth; `settle` moves it.
        promised: Share of images that must be in time.
    """

    def __init__(
        self, draw: Callable[[], Requests], prior: Decide, *, promised: float, price: float = 3.0
    ) -> None:
        self._draw, self._prior, self._promised = draw, prior, promised
        self.price = price
        self._requests = draw()
        self._actions: NDArray[np.int64] | None = None
        #: Shares in time and PSNR in dB of the batches since they were last looked at.
        self.kept: list[float] = []
        self.psnr_db: list[float] = []
        box = spaces.Box(-np.inf, np.inf, (len(NAMES) + 2,), np.float32)
        super().__init__(self._requests.rows, box, spaces.MultiDiscrete([2]))

    def reset(self) -> VecEnvObs:
        """Begin a batch of images."""
        self._requests = self._draw()
        self._baseline = played(self._requests.again(), self._prior)
        return self._look()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 1)."""
        self._actions = np.asarray(actions)[:, 0]

    def step_wait(self) -> VecEnvStepReturn:
        """Play a step; after the last one a new batch has begun."""
        if self._actions is None:
            raise StateError("expected step_async before step_wait")
        self._requests.play(self._actions == 1)
        self._actions = None
        rows, ended = self.num_envs, self._requests.step == self._requests.steps
        infos: list[dict[str, Any]] = [{} for _ in range(rows)]
        if not ended:
            return self._look(), np.zeros(rows, np.float32), np.zeros(rows, dtype=bool), infos
        psnr_db, in_time = self._requests.outcome()
        self.kept.append(float(in_time.mean()))
        self.psnr_db.append(float(psnr_db[in_time].mean()))
        rewards = self._worth(psnr_db, in_time) - self._worth(*self._baseline)
        seen = self._observation
        for row in range(rows):
            infos[row] = {"terminal_observation": seen[row]}
        return self.reset(), rewards.astype(np.float32), np.ones(rows, dtype=bool), infos

    def settle(self, rate: float) -> None:
        """Move the price of lateness towards where the promise is just kept (dual ascent)."""
        if self.kept:
            self.price = max(0.0, self.price + rate * (self._promised - float(np.mean(self.kept))))
            self.kept.clear()
            self.psnr_db.clear()

    def _worth(self, psnr_db: Floats, in_time: NDArray[np.bool_]) -> Floats:
        return np.where(in_time, psnr_db / 10 + self.price, 0.0)

    def _look(self) -> NDArray[np.float32]:
        moment = self._requests.moment()
        self._observation, self._masks = agent_input(moment, self._prior(moment))
        return self._observation

    def action_masks(self) -> NDArray[np.bool_]:
        """Return whether leaving a step out and computing it are allowed: (rows, 2)."""
        return self._masks

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Answer `action_masks` row by row, which is how sb3-contrib asks."""
        if method_name != "action_masks":
            raise StateError(f"expected the method action_masks, received {method_name!r}")
        return list(self._masks)

    def has_attr(self, attr_name: str) -> bool:
        """Tell that the rows have masks."""
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of this environment once per row; None if there is none."""
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: rows have no attributes of their own."""
        raise StateError(f"rows of one batch share everything; cannot set {attr_name!r}")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Tell that no row is wrapped."""
        return [False] * self.num_envs

    def close(self) -> None:
        """Nothing is open."""


class _Settle(BaseCallback):
    """Move the price after every rollout, and hear how far it is."""

    def __init__(self, env: DeadlineVecEnv, hear: Callable[[int, float, float], None]) -> None:
        super().__init__()
        self._env, self._hear = env, hear

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        env = self._env
        kept, psnr_db = float(np.mean(env.kept)), float(np.mean(env.psnr_db))
        self.logger.record("deadline/kept_share", kept)
        self.logger.record("deadline/psnr_db", psnr_db)
        self.logger.record("deadline/price", env.price)
        self._hear(self.num_timesteps, kept, psnr_db)
        env.settle(4.0)


def learn_deadlines(
    env: DeadlineVecEnv,
    *,
    steps: int,
    images: int,
    seed: int,
    hear: Callable[[int, float, float], None],
    learning_rate: float = 1e-3,
    batch_size: int = 4096,
    n_epochs: int = 4,
    ent_coef: float = 0.002,
    gae_lambda: float = 0.97,
    log: Any = None,
) -> PolicyNetwork:
    """Train by PPO; the actor is returned.

    Args:
        env: Simulated images.
        steps: Denoising steps of each.
        images: To be played in all.
        seed: Of actions and weights.
        hear: Told after every rollout: environment steps, share in time, PSNR in dB.
    """
    model = MaskablePPO(
        MaskablePriorPolicy,
        env,
        learning_rate=lambda left: learning_rate * max(left, 0.03),
        n_steps=steps,
        batch_size=batch_size,
        n_epochs=n_epochs,
        gamma=1.0,
        gae_lambda=gae_lambda,
        clip_range=0.2,
        ent_coef=ent_coef,
        seed=seed,
        device="cpu",
    )
    if log is not None:
        model.set_logger(log)
    model.learn(images * steps, callback=_Settle(env, hear))
    assert isinstance(model.policy, MaskablePriorPolicy)
    return exported(model.policy)
