"""Reinforcement learning on what is added to the numbers of a solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO

from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.told import Place, moved, numbers, relative_curvature

#: Episodes of an update, epochs of it, and its learning rate: a gaussian of few numbers.
_EPISODES, _EPOCHS, _RATE = 24, 10, 0.02
#: Share of the present error that all numbers together may move latents by, one standard deviation.
_SHARE = 0.5


class ResidualSolvers(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One step an episode: what is added to a solver's numbers, for the PSNR that it gains.

    Args:
        loops: Cases; an episode draws those of one of them.
        base: What is added to.
        free: Which numbers may move.
    """

    observation_space: Any = gym.spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, loops: Sequence[FreeLoop], base: FreeSolver, free: Sequence[str]) -> None:
        self._loops, self._base = list(loops), base
        self._places: list[Place] = numbers(base, free)
        self.action_space: Any = gym.spaces.Box(-10, 10, (len(self._places),), np.float32)
        curvature = relative_curvature(loops[0], base, self._places)
        self._scale = _SHARE / np.sqrt(len(self._places) * curvature)
        self._base_db = [loop.psnr(base) for loop in loops]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin; there is nothing to see."""
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Draw the cases of a loop."""
        place = int(self.np_random.integers(len(self._loops)))
        gain = self._loops[place].psnr(self.solver(action)) - self._base_db[place]
        return np.ones(1, np.float32), float(gain.mean()), True, False, {}

    def solver(self, action: NDArray[np.float32]) -> FreeSolver:
        """Return what an action makes of the base."""
        return moved(self._base, self._places, action * self._scale)


def ppo(
    loops: Sequence[FreeLoop], base: FreeSolver, free: Sequence[str], *, outputs: int
) -> FreeSolver:
    """Learn by PPO what to add to a solver.

    Args:
        loops: Few cases each.
        base: Where to start.
        free: Which numbers may move.
        outputs: Of the denoiser, to spend.

    Source: the form of arXiv 2512.22796, reinforcement on the residual of a solver's few numbers;
    there Dirichlet, here Gaussian.
    """
    env = ResidualSolvers(loops, base, free)
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=_EPISODES,
        batch_size=_EPISODES,
        n_epochs=_EPOCHS,
        learning_rate=_RATE,
        gamma=1.0,
        policy_kwargs={"net_arch": [], "log_std_init": -0.7},
        seed=0,
        device="cpu",
    )
    while sum(loop.computes * len(loop.cases) for loop in loops) < outputs:
        agent.learn(_EPISODES, reset_num_timesteps=False)
    action, _ = agent.predict(np.ones(1, np.float32), deterministic=True)
    return env.solver(action)
