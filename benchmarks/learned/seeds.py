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
from ditcache_rl.inference import PolicyController, Wish
from ditcache_rl.policy import Policy
from ditcache_rl.rl import Setting
from ditcache_rl.rl.learn import learn
from ditcache_rl.schedules import CostModel

#: Train prompts that networks of several seeds see.
SEEN = 128


def seeds_above(
    config: EnvConfig,
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    select: Sequence[Case],
    options: Any,
    figures: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Train the network from several seeds, each from the policy's schedules."""
    config = replace(config, ppo=replace(config.ppo, episodes=options.episodes))
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    cases = cases_of(config, "train")[:SEEN]
    board.prepare(cases)
    curves, gains = [], []
    wishes = [Wish(budget=budget / board.steps) for budget in budgets]
    static = [
        play(board, PolicyController(policy, wish, adaptive=False), select) for wish in wishes
    ]
    setting = Setting(config, board, cost, policy.plans[board.steps])
    for seed in track(range(1, options.seeds + 1), "seeds", console=console):
        curve: dict[int, float] = {}
        folder = options.runs / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        network = learn(setting, cases, folder, seed=seed, on_episodes=curve.__setitem__)
        trained = replace(policy, network=network)
        played = [
            play(board, PolicyController(trained, wish, adaptive=True), select) for wish in wishes
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
