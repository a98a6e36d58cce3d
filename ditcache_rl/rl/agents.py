"""The algorithms that learn, by their names in an environment file."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ditcache_rl.config import AgentConfig, EnvConfig
from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.rl.policy import (
    MaskablePriorPolicy,
    PlainPriorPolicy,
    PriorQPolicy,
    RecurrentPriorPolicy,
)

#: Makes an argument of the steps of an episode and the rows that play one.
_Size = Callable[[int, int], int]

#: Pipeline calls per gradient phase of an actor-critic: enough episodes for a steady advantage.
_BATCHES_PER_UPDATE = 4
#: Of whole episodes with one reward at their end: nothing is discounted.
_UNDISCOUNTED = {"learning_rate": 1e-3, "gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.001}
_A2C = _UNDISCOUNTED | {"normalize_advantage": True}
_PPO = _A2C | {"clip_range": 0.2, "n_epochs": 6, "target_kl": 0.05}
#: Explores around the schedule that its Q values begin with, instead of forgetting it.
_DQN = {
    "learning_rate": 1e-3,
    "gamma": 1.0,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "batch_size": 128,
    "gradient_steps": 32,
    "exploration_fraction": 0.5,
    "exploration_initial_eps": 0.1,
    "exploration_final_eps": 0.01,
}


def _update(steps: int, rows: int) -> int:
    return _BATCHES_PER_UPDATE * steps


def _episode(steps: int, rows: int) -> int:
    return steps


def _call(steps: int, rows: int) -> int:
    return steps * rows


class _Kind(NamedTuple):
    algorithm: Callable[..., BaseAlgorithm]
    policy: type
    settings: Mapping[str, Any]
    sizes: Mapping[str, _Size]


_PPO_SIZES = {"n_steps": _update, "batch_size": _call}
#: By the name of `[agent] algorithm`.
_KINDS = {
    "maskable": _Kind(MaskablePPO, MaskablePriorPolicy, _PPO, _PPO_SIZES),
    "plain": _Kind(PPO, PlainPriorPolicy, _PPO, _PPO_SIZES),
    "recurrent": _Kind(RecurrentPPO, RecurrentPriorPolicy, _PPO, _PPO_SIZES),
    "a2c": _Kind(A2C, PlainPriorPolicy, _A2C, {"n_steps": _update}),
    "dqn": _Kind(
        DQN, PriorQPolicy, _DQN, {"train_freq": _episode, "target_update_interval": _call}
    ),
}


def settings_of(config: AgentConfig) -> dict[str, Any]:
    """Return the arguments of the algorithm: ours, and in their place those of the environment.

    Raises:
        ConfigError: If one is unknown to the algorithm, or of a type that it does not take.
    """
    kind = _KINDS[config.algorithm]
    known = _numbers_of(kind.algorithm)
    for name, value in config.settings.items():
        if name not in known:
            raise ConfigError(
                f"[agent.settings] {name!r} is no setting of {config.algorithm!r}, expected one of "
                f"{', '.join(sorted(known))}.{closest(name, known)}"
            )
        wanted = known[name]
        if type(value) not in wanted and not (type(value) is int and float in wanted):
            named = " or ".join(one.__name__ for one in wanted)
            raise ConfigError(f"[agent.settings] {name} must be {named}, received {value!r}")
    return {**kind.settings, **config.settings}


def hyperparameters(config: AgentConfig, seed: int) -> dict[str, Any]:
    """Name what a training is set to."""
    fixed = {"algorithm": config.algorithm, "rows": config.rows, "episodes": config.episodes}
    return {**fixed, "seed": seed, **settings_of(config)}


def check_agent(config: EnvConfig) -> None:
    """Check the settings of an environment's agent, before anything is computed for it.

    Raises:
        ConfigError: As `settings_of`, with the name of the file.
    """
    try:
        settings_of(config.agent)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: {error}") from error


def make_agent(env: VecEnv, config: AgentConfig, *, episode_steps: int, seed: int) -> BaseAlgorithm:
    """Set up an algorithm so that it learns between whole episodes.

    Args:
        env: Whose rows end together; its actions are pairs of pattern and tier.
        config: Algorithm and settings.
        episode_steps: Denoising steps of an episode.
        seed: Of actions and weights.

    Raises:
        ConfigError: As `settings_of`, or if the algorithm refuses a value.
    """
    kind, settings = _KINDS[config.algorithm], settings_of(config)
    for name, size in kind.sizes.items():
        settings.setdefault(name, size(episode_steps, env.num_envs))
    if kind.policy is PriorQPolicy:
        env = FlatActions(env)
        settings["policy_kwargs"] = {"patterns": env.patterns}
    rate = settings.pop("learning_rate")
    try:
        return kind.algorithm(
            kind.policy,
            env,
            learning_rate=lambda left: rate * max(left, 0.05),
            seed=seed,
            device="cpu",
            **settings,
        )
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"[agent.settings] {config.algorithm!r} does not take them: {error}"
        ) from error


class FlatActions(VecEnvWrapper):
    """Offers every pair of pattern and tier as one action, for algorithms that need that.

    Args:
        venv: Whose actions are pairs.
    """

    def __init__(self, venv: VecEnv) -> None:
        pairs = venv.action_space
        assert isinstance(pairs, spaces.MultiDiscrete), "actions are pairs"
        self.patterns, self._tiers = (int(count) for count in pairs.nvec)
        super().__init__(venv, action_space=spaces.Discrete(self.patterns * self._tiers))

    def reset(self) -> VecEnvObs:
        """Begin new episodes."""
        return self.venv.reset()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take apart the actions of all rows: (rows,)."""
        self.venv.step_async(np.stack(np.divmod(actions, self._tiers), axis=-1))

    def step_wait(self) -> VecEnvStepReturn:
        """Play one step."""
        return self.venv.step_wait()


def _numbers_of(algorithm: Callable[..., BaseAlgorithm]) -> dict[str, list[type]]:
    """Return the arguments of an algorithm that a file can give, with the types they take."""
    ours = {"seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
    known = {}
    for name, parameter in inspect.signature(algorithm).parameters.items():
        kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
        plain = [kind for kind in kinds if kind in (bool, int, float)]
        if plain and name not in ours:
            known[name] = plain
    return known
