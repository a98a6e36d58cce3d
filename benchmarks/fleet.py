"""What do workers on Ray bring, and what would saturate first?

`shapes` at its first step count: whole batches of rows are played at random, as masks allow it, by
one worker of one core, then by several; the same seeds, so the same work. Every number of workers
has its turn in every round, and medians over the rounds count. Then the learner updates once, and
what it is told and tells is counted.

`ray_throughput_x`: rows per second of all workers over those of one.
`worker_row_s`: seconds of a row, which is an image, on one worker.
`learner_row_s`: seconds that the learner learns from a row.
`workers_per_learner`: workers that make rows as fast as one learner learns from them.
`row_bytes`: what travels for a row, there and back, over all steps of its episode.
"""

from __future__ import annotations

import time
from typing import Any

import cloudpickle
import numpy as np
from rich.progress import track

from benchmarks.harness import Benchmark, parser
from ditcache_rl.bench import cases_of
from ditcache_rl.config import load_env
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.fleet import Fleet, fleet_of
from ditcache_rl.rl.fleet_vec_env import FleetVecEnv
from ditcache_rl.rl.scenario import Scenario, Task

_ROUNDS, _QUICK_ROUNDS = 7, 2


def main() -> None:
    """Measure and report."""
    build = parser(__doc__, quick=f"{_QUICK_ROUNDS} rounds")
    build.add_argument("--workers", type=int, default=2, help="of the larger fleet")
    build.add_argument("--rows", type=int, default=8, help="of a batch")
    options = build.parse_args()
    run = Benchmark()
    config = load_env("shapes")
    scenario = Scenario.nominal(config)
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    with fleet_of(config, workers=options.workers) as fleet:
        assert fleet is not None, "workers are asked for"
        fleets = {1: Fleet(fleet._actors[:1]), options.workers: fleet}
        envs = {n: environment(scenario, options.rows, one) for n, one in fleets.items()}
        for env in envs.values():
            episode(env, scenario, 0)  # opens pipelines, draws references and baselines
        seconds: dict[int, list[float]] = {n: [] for n in envs}
        for number in track(range(rounds), description="rounds"):
            order = list(envs) if number % 2 else list(reversed(envs))
            for count in order:
                seconds[count].append(episode(envs[count], scenario, number))
        learner_s = update_seconds(envs[options.workers], scenario)
        bytes_there = traffic(envs[options.workers])
    medians = {n: float(np.median(values)) for n, values in seconds.items()}
    alone_s = medians[1] / options.rows
    figures = {
        "ray_throughput_x": medians[1] / medians[options.workers],
        "worker_row_s": alone_s,
        "learner_row_s": learner_s,
        "workers_per_learner": alone_s / learner_s,
        "row_bytes": bytes_there,
    }
    details = {"rows": options.rows, "workers": options.workers, "seconds": seconds}
    run.finish(figures, details, options.json, title="fleet")


def environment(scenario: Scenario, rows: int, fleet: Fleet) -> FleetVecEnv:
    """Set up rows whose tasks repeat, so that every round is the same work."""
    cases = cases_of(scenario.config, "train")[:rows]
    rng = np.random.default_rng(0)
    tasks = [Task.drawn(scenario, cases, rng) for _ in range(rows)]
    turn = iter(range(1 << 60))
    return FleetVecEnv(scenario, rows, lambda: tasks[next(turn) % rows], fleet=fleet)


def episode(env: FleetVecEnv, scenario: Scenario, seed: int) -> float:
    """Play one batch at random; returns seconds."""
    rng = np.random.default_rng(seed)
    env.reset()  # the fleets share workers: what these play next is of this one
    patterns = len(scenario.actions.patterns)
    started = time.perf_counter()
    for _ in range(scenario.board.steps):
        masks = env.action_masks()
        noise = rng.random(masks.shape) * masks
        chosen = noise[:, :patterns].argmax(axis=1), noise[:, patterns:].argmax(axis=1)
        env.step(np.stack(chosen, axis=1))
    seconds = time.perf_counter() - started
    env.close()
    return seconds


def update_seconds(env: FleetVecEnv, scenario: Scenario) -> float:
    """Let the learner collect one rollout and learn from it; returns seconds of learning a row."""
    model: Any = make_agent(env, scenario.config.agent, episode_steps=scenario.board.steps, seed=0)
    spent = 0.0
    train = model.train

    def timed() -> None:
        nonlocal spent
        started = time.perf_counter()
        train()
        spent += time.perf_counter() - started

    model.train = timed
    model.learn(model.n_steps * env.num_envs)
    rows: float = model.n_steps * env.num_envs / scenario.board.steps
    return spent / rows


def traffic(env: FleetVecEnv) -> float:
    """Return the bytes that travel for a row in an episode."""
    steps, total = env._steps, 0
    for step in range(steps):
        asked = (env._tasks, [np.zeros((env.num_envs, 2), np.int64)] * (step + 1))
        told = (env._masks, np.zeros((env.num_envs, len(env.observation_names)), np.float32))
        total += len(cloudpickle.dumps(asked)) + len(cloudpickle.dumps(told))
    return total / env.num_envs


if __name__ == "__main__":
    main()
