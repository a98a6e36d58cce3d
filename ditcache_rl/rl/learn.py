"""Learning on the vectorised environment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import Case
from ditcache_rl.bench.run import read_kept
from ditcache_rl.rl.agents import hyperparameters, make_agent
from ditcache_rl.rl.callbacks import EpisodeLog, TrainingCallback
from ditcache_rl.rl.checkpoint import restore, save_checkpoint
from ditcache_rl.rl.curves import merge_events, open_curves
from ditcache_rl.rl.fleet_episodes import episodes_of
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.vec_env import DenoiseVecEnv


def learn(
    scenario: Scenario,
    cases: Sequence[Case],
    folder: Path,
    *,
    seed: int,
    on_episodes: Callable[[int, float], None],
    callbacks: Sequence[BaseCallback] = (),
) -> BaseAlgorithm:
    """Train, resuming from `folder/agent.zip` if it is there.

    Rows are played where the board of the scenario is drawn on. What is learned is the same, to
    the bit, however often it was interrupted, as long as learning begins between whole episodes,
    as it does by default.

    Args:
        scenario: Board, prices and schedules.
        cases: Prompts and seeds to learn on; their references are drawn first.
        folder: Holds checkpoint and TensorBoard events.
        seed: Of actions, tasks and weights.
        on_episodes: Hears the episodes played so far and the latest mean gain.
        callbacks: Of Stable-Baselines3, called beside ours.

    Returns:
        The trained model.

    Raises:
        ArtifactError: If the checkpoint is damaged, or one of another network.
    """
    config, board = scenario.config.agent, scenario.board
    log = EpisodeLog(scenario)
    tasks: Iterator[Task] = iter(())
    board.prepare(cases)
    env = DenoiseVecEnv(
        scenario,
        config.rows,
        lambda: next(tasks),
        episodes=episodes_of(scenario),
        on_outcome=log.hear,
    )
    checkpoint = folder / "agent.zip"
    total = max(1, config.episodes // config.rows) * config.rows * board.steps

    def save(model: BaseAlgorithm) -> None:
        save_checkpoint(model, scenario, checkpoint)

    try:
        model = make_agent(env, config, episode_steps=board.steps, seed=seed)
        if checkpoint.exists():
            read_kept(checkpoint, lambda file: restore(model, scenario, file))
            log.episodes = model.num_timesteps // board.steps
        left = total - model.num_timesteps
        if left > 0:
            tasks = _tasks(scenario, cases, seed, log.episodes // config.rows)
            model.set_logger(open_curves(folder, model.num_timesteps))
            ours = TrainingCallback(log, save, on_episodes, hyperparameters(config, seed))
            try:
                model.learn(left, callback=[ours, *callbacks], reset_num_timesteps=False)
            finally:
                model.logger.close()
                merge_events(folder)
            save(model)
        return model
    finally:
        env.close()


def _tasks(scenario: Scenario, cases: Sequence[Case], seed: int, first: int) -> Iterator[Task]:
    """Draw the tasks of one batch after the other; they depend on nothing but its number."""
    for number in itertools.count(first):
        rng = np.random.default_rng([seed, number])
        for _ in range(scenario.config.agent.rows):
            yield Task.drawn(scenario, cases, rng)
