"""Learning on the vectorised environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import Case
from ditcache_rl.bench.run import read_kept
from ditcache_rl.rl.agents import hyperparameters, make_agent
from ditcache_rl.rl.callbacks import EpisodeLog, TrainingCallback, save_checkpoint
from ditcache_rl.rl.curves import merge_events, open_curves
from ditcache_rl.rl.fleet import Fleet
from ditcache_rl.rl.fleet_vec_env import FleetVecEnv
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.shared_vec_env import SharedVecEnv
from ditcache_rl.rl.vec_env import DenoiseVecEnv


def learn(
    scenario: Scenario,
    cases: Sequence[Case],
    folder: Path,
    *,
    seed: int,
    on_episodes: Callable[[int, float], None],
    callbacks: Sequence[BaseCallback] = (),
    fleet: Fleet | None = None,
) -> BaseAlgorithm:
    """Train, resuming from `folder/agent.zip` if it is there.

    Args:
        scenario: Board, prices and schedules.
        cases: Prompts and seeds to learn on.
        folder: Holds checkpoint and TensorBoard events.
        seed: Of actions, tasks and weights.
        on_episodes: Hears the episodes played so far and the latest mean gain.
        callbacks: Of Stable-Baselines3, called beside ours.
        fleet: Plays the rows; None to play them here.

    Returns:
        The trained model.

    Raises:
        ArtifactError: If the checkpoint is damaged, or one of another network.
    """
    config = scenario.config.agent
    rng = np.random.default_rng(seed)
    board = scenario.board
    log = EpisodeLog(scenario)

    def draw() -> Task:
        return Task.drawn(scenario, cases, rng)

    env: SharedVecEnv
    if fleet is None:
        env = DenoiseVecEnv(scenario, config.rows, draw, on_outcome=log.hear)
    else:
        env = FleetVecEnv(scenario, config.rows, draw, fleet=fleet, on_rows=log.note)
    checkpoint = folder / "agent.zip"
    total = max(1, config.episodes // config.rows) * config.rows * board.steps
    try:
        model = make_agent(env, config, episode_steps=board.steps, seed=seed)
        if checkpoint.exists():
            model.num_timesteps = read_kept(checkpoint, lambda file: _restore(model, file))
            rng.bit_generator.advance(model.num_timesteps)  # type: ignore[attr-defined]
            log.episodes = model.num_timesteps // board.steps
        left = total - model.num_timesteps
        if left > 0:
            model.set_logger(open_curves(folder, model.num_timesteps))
            ours = TrainingCallback(log, checkpoint, on_episodes, hyperparameters(config, seed))
            try:
                model.learn(left, callback=[ours, *callbacks], reset_num_timesteps=False)
            finally:
                model.logger.close()
                merge_events(folder)
            save_checkpoint(model, checkpoint)
        return model
    finally:
        env.close()


def _restore(model: BaseAlgorithm, checkpoint: Path) -> int:
    """Take the weights of a checkpoint, and tell how far it had come.

    That is a plain number, for which nothing is unpickled.
    """
    model.set_parameters(str(checkpoint))
    with ZipFile(checkpoint) as archive:
        return int(json.loads(archive.read("data"))["num_timesteps"])
