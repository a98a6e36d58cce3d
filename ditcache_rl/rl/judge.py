"""Judge who keeps deadlines how well, and who of them is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.types import Floats
from ditcache_rl.world import Decide, Requests, played
from ditcache_rl.world.pacer import Decider
from ditcache_rl.world.tuning import score_db
from ditcache_rl.world.world import World

#: What contenders are called.
STATIC, START, RULE = "static by deadline", "static by speed at the start", "replanning"
FORESEES, AGENT = "replanning, learned forecast", "agent"
#: Simulated images that contenders are compared on.
_COMPARE = 6144


class Kept(NamedTuple):
    """How a contender fares under one load."""

    load: str
    name: str
    kept_share: float
    psnr_db: float
    """Mean over the images in time."""
    score_db: Floats
    """(images,) PSNR, 0 of late ones."""


def standing(name: str, load: str, requests: Requests, decide: Decide) -> Kept:
    """Play a contender."""
    psnr_db, in_time = played(requests, decide)
    mean = float(psnr_db[in_time].mean()) if in_time.any() else float("nan")
    return Kept(load, name, float(in_time.mean()), mean, score_db(psnr_db, in_time))


class Judgement(NamedTuple):
    """How contenders fare, and who is used."""

    rows: list[Kept]
    agent_minus: dict[str, Interval]
    """PSNR in dB of the agent less that of each other contender, 0 of late images."""
    decides: Decider

    def facts(self) -> dict[str, Any]:
        """Return what the metrics of a policy keep."""
        return {
            "standings": [
                {
                    "load": one.load,
                    "contender": one.name,
                    "kept_share": one.kept_share,
                    "psnr_db": one.psnr_db,
                    "score_db": float(one.score_db.mean()),
                }
                for one in self.rows
            ],
            "agent_minus": {name: gain.ends for name, gain in self.agent_minus.items()},
            "decides": self.decides,
        }


def judged(
    world: World, loads: Sequence[str], contenders: Mapping[str, Decide], *, seed: int
) -> Judgement:
    """Play contenders under every load, on images that none has seen.

    The agent is used if it is significantly above what it started from, and significantly below
    neither replanning; else replanning by the forecast, if it is not below that by the rule.

    Args:
        world: Of the images.
        loads: Kinds of load.
        contenders: All of the names above, but perhaps the static schedule by deadline.
        seed: Of the images.
    """
    rows: list[Kept] = []
    for place, load in enumerate(loads):
        draw = world.fixed([load], _COMPARE // len(loads), seed + 200 + place)
        rows += [standing(name, load, draw(), one) for name, one in contenders.items()]

    def gain(one: str, other: str) -> Interval:
        return mean_interval(_scores(rows, one) - _scores(rows, other))

    minus = {name: gain(AGENT, name) for name in contenders if name != AGENT}
    decides: Decider = "rule"
    if minus[START].low > 0 and min(minus[RULE].high, minus[FORESEES].high) >= 0:
        decides = "agent"
    elif gain(FORESEES, RULE).high >= 0:
        decides = "forecast"
    return Judgement(rows, minus, decides)


def _scores(rows: Sequence[Kept], name: str) -> Floats:
    return np.concatenate([one.score_db for one in rows if one.name == name])
