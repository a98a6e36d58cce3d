"""Learn to keep deadlines: the vectorised environment of simulated images, and PPO on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.errors import StateError
from ditcache_rl.rl.curves import open_curves
from ditcache_rl.rl.policy import MaskablePriorPolicy, exported
from ditcache_rl.rl.shared_vec_env import SharedVecEnv
from ditcache_rl.types import Floats
from ditcache_rl.world import Requests, Senses, played
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES, allowed

#: How fast the price of lateness follows the share in time, per rollout.
_ASCENT = 4.0
#: Prices of lateness, beyond the quality that a late image loses.
_PRICES = (0.0, 20.0)


class DeadlineVecEnv(SharedVecEnv):
    """Rows of simulated images; an action tells whether a row computes its step.

    The return of an image in time is its PSNR in dB, over ten, plus the price of lateness; that of
    a late one is nothing; minus what the prior earns on the same image. It is handed out as the
    quality changes step by step, which adds up to the same. An action that is not allowed is played
    as the other one, so that algorithms without masks learn here too; after every batch the prices
    move.

    Args:
        draw: Begins a batch of images, of equally many rows under each load.
        senses: What the policy reads with and starts from.
        loads: Loads in a batch, each with a price of its own.
        promised: Share of images that must be in time under each.
    """

    def __init__(
        self, draw: Callable[[], Requests], senses: Senses, *, loads: int, promised: float
    ) -> None:
        self._draw, self._senses, self._promised = draw, senses, promised
        self.prices = np.full(loads, 1.0)
        self._requests = draw()
        self._actions: NDArray[np.bool_] | None = None
        #: Share in time by load, and PSNR in dB, of the newest batch.
        self.kept, self.psnr_db = np.full(loads, np.nan), np.nan
        box = spaces.Box(-np.inf, np.inf, (len(AGENT_NAMES) + ACTIONS,), np.float32)
        super().__init__(self._requests.rows, box, spaces.MultiDiscrete([ACTIONS]))

    def reset(self) -> VecEnvObs:
        """Begin a batch of images."""
        self._requests = self._draw()
        self._baseline = self._worth(*played(self._requests.again(), self._senses.prior))
        return self._look()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of all rows: (rows, 1)."""
        may_skip, may_compute = self._masks.T
        self._actions = may_compute & (~may_skip | (np.asarray(actions)[:, 0] == 1))

    def step_wait(self) -> VecEnvStepReturn:
        """Play a step; after the last one a new batch has begun."""
        if self._actions is None:
            raise StateError("expected step_async before step_wait")
        before, rows = self._so_far, self.num_envs
        self._requests.play(self._actions)
        self._actions = None
        infos: list[dict[str, Any]] = [{} for _ in range(rows)]
        if self._requests.step < self._requests.steps:
            seen = self._look()
            rewards = self._so_far - before
            return seen, rewards.astype(np.float32), np.zeros(rows, dtype=bool), infos
        psnr_db, in_time = self._requests.outcome()
        parts = np.array_split(in_time, len(self.prices))
        self.kept = np.array([part.mean() for part in parts])
        self.psnr_db = float(psnr_db[in_time].mean()) if in_time.any() else np.nan
        rewards = self._worth(psnr_db, in_time) - self._baseline - before
        for info, seen in zip(infos, self._seen, strict=True):
            info["terminal_observation"] = seen
        self.settle()
        return self.reset(), rewards.astype(np.float32), np.ones(rows, dtype=bool), infos

    def settle(self) -> None:
        """Move the prices of lateness towards where the promise is just kept (dual ascent)."""
        moved = self.prices + _ASCENT * (self._promised - self.kept)
        self.prices = np.clip(moved, *_PRICES)

    def _worth(self, psnr_db: Floats, in_time: NDArray[np.bool_]) -> Floats:
        return np.where(in_time, psnr_db / 10 + self._price(), 0.0)

    def _price(self) -> Floats:
        """Return the price of lateness: (rows,)."""
        parts = np.array_split(np.arange(self.num_envs), len(self.prices))
        return np.repeat(self.prices, [len(part) for part in parts])

    def _look(self) -> NDArray[np.float32]:
        moment = self._requests.moment()
        self._seen, self._masks = self._senses.read(moment), allowed(moment)
        #: (rows,) what the image is worth if everything from here on is computed.
        self._so_far = self._requests.so_far() / 10
        return self._seen

    def action_masks(self) -> NDArray[np.bool_]:
        """Return whether leaving a step out and computing it are allowed: (rows, 2)."""
        return self._masks

    def close(self) -> None:
        """Nothing is open."""


class _Tell(BaseCallback):
    """Tell how far it is after every rollout."""

    def __init__(self, env: DeadlineVecEnv, hear: Callable[[int, float, float], None]) -> None:
        super().__init__()
        self._env, self._hear = env, hear

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        env = self._env
        self.logger.record("deadline/psnr_db", env.psnr_db)
        for place, (kept, price) in enumerate(zip(env.kept, env.prices, strict=True)):
            self.logger.record(f"deadline/kept_share_{place}", float(kept))
            self.logger.record(f"deadline/price_{place}", float(price))
        self._hear(self.num_timesteps, float(env.kept.mean()), env.psnr_db)


def learn_deadlines(
    env: DeadlineVecEnv,
    *,
    steps: int,
    images: int,
    seed: int,
    folder: Path | None = None,
    hear: Callable[[int, float, float], None] = lambda *_: None,
) -> PolicyNetwork:
    """Train by PPO; the actor is returned.

    Args:
        env: Simulated images.
        steps: Denoising steps of each.
        images: To be played in all.
        seed: Of actions and weights.
        folder: For TensorBoard.
        hear: Told after every rollout: environment steps, share in time, PSNR in dB.
    """
    model = MaskablePPO(
        MaskablePriorPolicy,
        env,
        # Many simulated images make larger steps safe; at the end they shrink.
        learning_rate=lambda left: 1e-3 * max(left, 0.03),
        n_steps=steps,
        batch_size=2048,
        n_epochs=4,
        gamma=1.0,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.002,
        seed=seed,
        device="cpu",
    )
    if folder is not None:
        model.set_logger(open_curves(folder, 0))
    model.learn(images * steps, callback=_Tell(env, hear))
    return exported(model)
