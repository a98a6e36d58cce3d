"""Networks that were trained from several seeds, each from the policy's schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.harness import console
from benchmarks.harness.play import play
from benchmarks.harness.seeds import iqm, stratified
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.policy import Policy
from ditcache_rl.rl import Scenario
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.policy import exported

#: Train prompts that networks of several seeds see.
SEEN = 128


def seeds_above(
    config: EnvConfig,
    board: Board,
    policy: Policy,
    counts: Sequence[int],
    select: Sequence[Case],
    options: Any,
    figures: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Train the network from several seeds, each from the policy's schedules."""
    config = replace(config, agent=replace(config.agent, episodes=options.episodes))
    cases = cases_of(config, "train")[:SEEN]
    board.prepare(cases)
    curves, gains = [], []
    targets = [Target(budget=computes / board.steps) for computes in counts]
    static = [
        play(board, PolicyController(policy, target, adaptive=False), select) for target in targets
    ]
    cost = policy.cost.for_steps(board.steps)
    scenario = Scenario(config, board, cost, policy.tables[board.steps])
    for seed in track(range(1, options.seeds + 1), "seeds", console=console):
        curve: dict[int, float] = {}
        folder = options.runs / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        model = learn(scenario, cases, folder, seed=seed, on_episodes=curve.__setitem__)
        trained = replace(policy, network=exported(model))
        played = [
            play(board, PolicyController(trained, target, adaptive=True), select)
            for target in targets
        ]
        curves.append(sorted(curve.items()))
        gains.append(
            [float((a.psnr_db - b.psnr_db).mean()) for a, b in zip(played, static, strict=True)]
        )
    table = np.array(gains)
    figures["seeds_above_static_count"] = int((table.mean(axis=1) > 0).sum())
    return {
        "gain_db": table.tolist(),
        "iqm_gain_db": stratified(table, iqm, rng),
        "probability_of_improvement": stratified(
            table, lambda x: float((x > 0).mean() + (x == 0).mean() / 2), rng
        ),
        "paired_gain_of_episodes": curves,
    }
