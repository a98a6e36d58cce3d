"""Contenders that keep deadlines, on simulated loads that none of them has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Lines
from ditcache_rl.interval import mean_interval
from ditcache_rl.rl.judge import Kept, standing
from ditcache_rl.rl.pace import learn_agent
from ditcache_rl.world import Agent, Decide, Foreseeing, Moment, Pacer, Replanning
from ditcache_rl.world.recording import RecordedLoad, Recording
from ditcache_rl.world.rules import planned
from ditcache_rl.world.simulator import Requests
from ditcache_rl.world.tuning import SPARE, best_by_deadline, cautious, tuned, with_margin
from ditcache_rl.world.world import World

#: Loads that are reported, by what they mix.
LOADS: dict[str, tuple[str, ...]] = {
    "slow": ("slow",),
    "comparable": ("comparable",),
    "fast": ("fast",),
    "mixed": ("slow", "comparable", "fast"),
}
#: Loads that nothing was tuned or trained on; the last one is a recorded one.
SHIFTED = ("slower", "burstier", "crowded", "recorded")
RECORDED = ROOT / "envs" / "loads" / "two-cores.safetensors"
_TUNE_SEED, _TEST_SEED = 71_000, 72_000


class Sizes(NamedTuple):
    """Images that are simulated."""

    choose: int
    tune: int
    test: int
    tries: int
    learn: int
    """For the agent on the rule; 0 leaves it out."""


FULL, QUICK = Sizes(24_576, 3072, 12_288, 16, 51_000), Sizes(3072, 768, 1536, 3, 0)


class Clairvoyant:
    """Knows the load to come, and nothing of the noise of single steps."""

    def __init__(self, pacer: Pacer, requests: Requests) -> None:
        self._placement = pacer.placement
        self._affordable = np.maximum(requests.room(), 0).astype(np.int64)

    def __call__(self, moment: Moment) -> NDArray[np.bool_]:
        """Tell which rows compute: (rows,)."""
        return planned(self._placement, moment, self._affordable - moment.computed)


def recorded_world(pacer: Pacer) -> World:
    """Return the world that was recorded, its last part; deadlines are as much longer as it took.

    The recorded machine was never idle: with the deadlines of one that is, all would be late.
    """
    recording = Recording.read(RECORDED).part("test")
    load = RecordedLoad.of(recording, compute_s=pacer.pacing.compute_s)
    world = pacer.world
    low, high = (share * recording.slowdown for share in world.deadlines)
    return world._replace(deadlines=(low, high), loads={"recorded": load})


def compared(pacer: Pacer, sizes: Sizes, *, seed: int = 0) -> tuple[dict[str, float], Lines]:
    """Play all contenders; opponents are tuned for each load by itself, the agent is one for all.

    Returns:
        Figures and lines of a table.
    """
    world, promised = pacer.world, pacer.pacing.promised_share
    placement, prices = pacer.placement, pacer.prices
    agents: dict[str, Decide] = {}
    if pacer.network is not None:
        agents["agent"] = pacer.agent
    if sizes.learn and pacer.network is not None:
        every = LOADS["mixed"]
        senses = replace(pacer.agent.senses, prior=pacer.rule)
        network = learn_agent(
            world, every, senses, promised=promised, images=sizes.learn, seed=seed
        )
        corrected = Agent(network.on_host(), senses)
        agents["agent on the rule"] = cautious(world, every, corrected, promised, seed=seed)
    figures: dict[str, float] = {}
    lines: Lines = []
    for place, (name, loads) in enumerate(LOADS.items()):
        many = world.fixed(loads, sizes.choose, _TUNE_SEED + seed + place)
        few = world.fixed(loads, sizes.tune, _TUNE_SEED + 100 + seed + place)
        keep = promised + SPARE
        simple = with_margin(few, Replanning(placement, prices), keep)[0]
        rng = np.random.default_rng(seed + place)
        contenders: dict[str, Decide] = {
            "0a static by deadline": best_by_deadline(many, placement, keep, speeds=1),
            "0b static by speed at the start": best_by_deadline(many, placement, keep),
            "1s replanning": simple,
            "1 replanning, tuned": tuned(few, simple, keep, tries=sizes.tries, rng=rng),
        }
        if pacer.network is not None:
            foresees = Foreseeing(placement, pacer.agent.senses.forecast)
            contenders["1b learned forecast"] = with_margin(few, foresees, keep)[0]
        contenders |= agents
        test = world.fixed(loads, sizes.test, _TEST_SEED + seed + place)
        contenders["3 clairvoyant"] = Clairvoyant(pacer, test())
        rows = {one: standing(one, name, test(), contenders[one]) for one in contenders}
        lines += [_line(row, rows["1 replanning, tuned"]) for row in rows.values()]
        figures |= _figures(name, rows, agents, seed)
    for place, name in enumerate(SHIFTED):
        there = recorded_world(pacer) if name == "recorded" else world
        test = there.fixed([name], sizes.test // 2, _TEST_SEED + 500 + seed + place)
        rows = {"rule": standing("rule", name, test(), pacer.rule)}
        rows |= {one: standing(one, name, test(), agent) for one, agent in agents.items()}
        lines += [_line(row, rows["rule"]) for row in rows.values()]
        for one in agents:
            key = f"{one.replace(' ', '_')}_over_rule_db_{name}"
            figures[key] = _minus(rows[one], rows["rule"])
        figures |= {
            f"{one.replace(' ', '_')}_kept_share_{name}": row.kept_share
            for one, row in rows.items()
        }
    return figures, lines


def _figures(
    load: str, rows: Mapping[str, Kept], agents: Mapping[str, Decide], seed: int
) -> dict[str, float]:
    """Compare the agent with its opponents under one load."""
    if "agent" not in rows:
        return {}
    agent, rule = rows["agent"], rows["1 replanning, tuned"]
    found = {
        f"kept_share_{load}": agent.kept_share,
        f"over_static_db_{load}": _minus(agent, rows["0a static by deadline"]),
        f"over_start_db_{load}": _minus(agent, rows["0b static by speed at the start"]),
        f"rule_kept_share_{load}": rule.kept_share,
        f"rule_over_start_db_{load}": _minus(rule, rows["0b static by speed at the start"]),
    }
    better = max((rows[name] for name in agents), key=lambda one: one.score_db.mean())
    gain = mean_interval(better.score_db - rule.score_db)
    found[f"policy_over_rule_db_{load}"] = gain.mean
    found[f"policy_over_rule_low_db_{load}"] = gain.low
    return found


def _minus(one: Kept, other: Kept) -> float:
    return float((one.score_db - other.score_db).mean())


def _line(row: Kept, rule: Kept) -> dict[str, object]:
    return {
        "load": row.load,
        "contender": row.name,
        "kept_share": round(row.kept_share, 4),
        "psnr_db": round(row.psnr_db, 2),
        "late_as_zero_db": round(float(row.score_db.mean()), 2),
        "minus_rule_db": round(float((row.score_db - rule.score_db).mean()), 3),
    }
