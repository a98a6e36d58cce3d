"""What placing is worth where memory has a price: the shipped policy, tiers, and the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Lines
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy
from ditcache_rl.interval import mean_interval
from ditcache_rl.pipelines import open_configured
from ditcache_rl.rl import Scenario
from ditcache_rl.rl.placing import Standing, standings
from ditcache_rl.types import Floats

ENV, POLICY = "shapes-tiers", "shapes-tiers-ppo"
#: Test prompts of a quick run; the full one takes all.
_FEW = 32


def played(*, quick: bool) -> list[Standing]:
    """Let everybody place on test prompts, under the caps and prices of the environment."""
    config, policy = load_env(ENV), open_policy(POLICY)
    steps = config.steps[0]
    board = Board.of(config, open_configured(config.pipeline), steps=steps)
    scenario = Scenario(config, board, policy.cost, policy.tables[steps])
    cases = cases_of(config, "test")[: _FEW if quick else None]
    return standings(scenario, cases, policy)


def figures(*, quick: bool) -> dict[str, float]:
    """Say what the policy earns over the best tier that is the same always, and over the cache.

    Returns are means over the targets of the environment; cases are paired. The best tier is that
    with the best mean over everything.
    """
    return figures_of(played(quick=quick))


def figures_of(standings: Sequence[Standing]) -> dict[str, float]:
    """Reckon the figures of what was played."""
    mean = {
        name: np.mean([line.returns[name] for line in standings], axis=0)
        for name in standings[0].returns
    }
    tiers = [name for name in mean if name not in ("policy", "cache")]
    fixed = max(tiers, key=lambda name: float(mean[name].mean()))
    over_fixed = mean_interval(mean["policy"] - mean[fixed])
    over_rule: Floats = mean["policy"] - mean["cache"]
    return {
        "tiers_over_fixed_return": over_fixed.mean,
        "tiers_over_fixed_low_return": over_fixed.low,
        "tiers_over_rule_return": float(over_rule.mean()),
    }


def lines(standings: Sequence[Standing]) -> Lines:
    """Lay the mean returns out by target."""
    return [
        {"target": one.target, "placed by": one.ships}
        | {name: float(values.mean()) for name, values in one.returns.items()}
        for one in standings
    ]
