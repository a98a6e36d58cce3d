"""PPO on the vectorised environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ditcache_rl.bench import Case
from ditcache_rl.bench.run import read_kept
from ditcache_rl.config import PPOConfig
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.rl.callbacks import EpisodeLog, TrainingCallback, save_checkpoint
from ditcache_rl.rl.policy import MaskablePriorPolicy, PlainPriorPolicy, PriorPolicy, exported
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.vec_env import DenoiseVecEnv

#: Pipeline calls per gradient phase: enough episodes for a steady advantage.
_BATCHES_PER_UPDATE = 4
#: Algorithm and policy by the name of `[ppo] algorithm`.
_ALGORITHMS: dict[str, tuple[Any, type[PriorPolicy]]] = {
    "maskable": (MaskablePPO, MaskablePriorPolicy),
    "plain": (PPO, PlainPriorPolicy),
}


def make_ppo(env: VecEnv, config: PPOConfig, *, episode_steps: int, seed: int) -> OnPolicyAlgorithm:
    """Set up PPO so that a rollout is a whole number of episodes."""
    algorithm, policy = _ALGORITHMS[config.algorithm]
    made: OnPolicyAlgorithm = algorithm(
        policy,
        env,
        learning_rate=lambda left: config.learning_rate * max(left, 0.05),
        n_steps=episode_steps * _BATCHES_PER_UPDATE,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=1.0,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        target_kl=config.target_kl,
        normalize_advantage=True,
        seed=seed,
        device="cpu",
    )
    return made


def learn(
    scenario: Scenario,
    cases: Sequence[Case],
    folder: Path,
    *,
    seed: int,
    on_episodes: Callable[[int, float], None],
) -> PolicyNetwork:
    """Train, resuming from `folder/ppo.zip` if it is there.

    Args:
        scenario: Board, prices and schedules.
        cases: Prompts and seeds to learn on.
        folder: Holds checkpoint and TensorBoard events.
        seed: Of actions, tasks and weights.
        on_episodes: Hears the episodes played so far and the latest mean gain.

    Returns:
        The trained actor.

    Raises:
        ArtifactError: If the checkpoint is damaged, or one of another network.
    """
    config = scenario.config.ppo
    rng = np.random.default_rng(seed)
    board = scenario.board
    log = EpisodeLog(scenario)

    def draw() -> Task:
        return Task.drawn(scenario, cases, rng)

    env = DenoiseVecEnv(scenario, config.rows, draw, on_outcome=log.hear)
    checkpoint = folder / "ppo.zip"
    total = max(1, config.episodes // config.rows) * config.rows * board.steps
    try:
        model = make_ppo(env, config, episode_steps=board.steps, seed=seed)
        if checkpoint.exists():
            model.num_timesteps = read_kept(checkpoint, lambda file: _restore(model, file))
            rng.bit_generator.advance(model.num_timesteps)  # type: ignore[attr-defined]
            log.episodes = model.num_timesteps // board.steps
        left = total - model.num_timesteps
        if left > 0:
            model.set_logger(configure(str(folder), ["tensorboard"]))
            callback = TrainingCallback(log, checkpoint, on_episodes)
            model.learn(left, callback=callback, reset_num_timesteps=False)
            save_checkpoint(model, checkpoint)
        assert isinstance(model.policy, PriorPolicy)
        return exported(model.policy)
    finally:
        env.close()


def _restore(model: OnPolicyAlgorithm, checkpoint: Path) -> int:
    """Take the weights of a checkpoint, and tell how far it had come.

    That is a plain number, for which nothing is unpickled.
    """
    model.set_parameters(str(checkpoint))
    with ZipFile(checkpoint) as archive:
        return int(json.loads(archive.read("data"))["num_timesteps"])
