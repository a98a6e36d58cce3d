"""What do workers on Ray bring, and what would saturate first?

`shapes` at its first step count: batches of rows that follow their schedules are played, and their
baselines scored, by one worker that is pinned to one core, then by several; the same seeds, so the
same work. Every number of workers has its turn in every round, and medians over the rounds count.
Then the learner updates once, and what it is told and tells is counted.

`ray_throughput_x`: rows per second of all workers over those of one.
`worker_row_s`: seconds of a played row, which is an image, on one worker.
`learner_row_s`: seconds that the learner learns from a row.
`workers_per_learner`: workers that make rows as fast as one learner learns from them.
`row_bytes`: what travels for a row, there and back, over all steps of its episode.
"""

from __future__ import annotations

import time
from typing import Any

import cloudpickle
import numpy as np

from benchmarks.harness import Benchmark, parser
from benchmarks.served.workers import pin, rounds_of, scenarios_on, tasks_of, throughput_x
from ditcache_rl.config import load_env
from ditcache_rl.rl.agents import make_agent
from ditcache_rl.rl.fleet import Fleet, fleet_of
from ditcache_rl.rl.fleet_episodes import episodes_of
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.rl.vec_env import DenoiseVecEnv

_ROUNDS, _QUICK_ROUNDS = 5, 2


def main() -> None:
    """Measure and report."""
    build = parser(__doc__, quick=f"{_QUICK_ROUNDS} rounds")
    build.add_argument("--workers", type=int, default=2, help="of the larger fleet")
    build.add_argument("--rows", type=int, default=16, help="of a batch")
    options = build.parse_args()
    run = Benchmark()
    config = load_env("shapes")
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    with fleet_of(config, workers=options.workers) as fleet:
        assert fleet is not None, "workers are asked for"
        pin(fleet)
        fleets = {1: Fleet(fleet._actors[:1]), options.workers: fleet}
        scenarios = scenarios_on(fleets, config)
        found = rounds_of(scenarios, rows=options.rows, rounds=rounds)
        scenario = scenarios[options.workers]
        tasks = tasks_of(scenario, options.rows)
        learner_s = update_seconds(scenario, tasks)
    alone_s = float(np.median([one.played_s for one in found[1]])) / options.rows
    figures = {
        "ray_throughput_x": throughput_x(found),
        "worker_row_s": alone_s,
        "learner_row_s": learner_s,
        "workers_per_learner": alone_s / learner_s,
        "row_bytes": traffic(scenario, tasks),
    }
    details = {"rows": options.rows, "workers": options.workers, "seconds": found}
    run.finish(figures, details, options.json, title="fleet")


def update_seconds(scenario: Scenario, tasks: list[Task]) -> float:
    """Let the learner collect one rollout and learn from it; returns seconds of learning a row."""
    turn = iter(range(1 << 60))
    env = DenoiseVecEnv(
        scenario,
        len(tasks),
        lambda: tasks[next(turn) % len(tasks)],
        episodes=episodes_of(scenario),
    )
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


def traffic(scenario: Scenario, tasks: list[Task]) -> float:
    """Return the bytes that travel for a row in an episode, references not counted."""
    rows, steps, total = len(tasks), scenario.board.steps, len(cloudpickle.dumps(tasks))
    actions = scenario.actions
    masks = np.zeros((rows, actions.logits), dtype=np.bool_)
    seen = np.zeros((rows, len(actions.schema())), dtype=np.float32)
    for step in range(steps):
        asked = np.zeros((step + 1, rows, 2), np.int64)
        total += len(cloudpickle.dumps(asked)) + len(cloudpickle.dumps((masks, seen)))
    return total / rows


if __name__ == "__main__":
    main()
