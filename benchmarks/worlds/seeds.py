"""How surely an agent learns to keep deadlines, and what of it matters: seeds and ablations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.harness import Lines
from benchmarks.worlds.deadlines import LOADS
from ditcache_rl.interval import mean_interval
from ditcache_rl.rl.judge import standing
from ditcache_rl.rl.pace import foreseen, learn_agent
from ditcache_rl.types import Floats
from ditcache_rl.world import Agent, Decide, Forecast, Moment, Pacer, Senses
from ditcache_rl.world.agent import AGENT_NAMES

EVERY = LOADS["mixed"]
_TEST_SEED = 73_000


class Trainings(NamedTuple):
    """How much is trained and judged."""

    seeds: int
    learn: int
    """Images of every training."""
    test: int


FULL, QUICK = Trainings(5, 51_000, 12_288), Trainings(1, 3000, 1536)


class Opponents:
    """What learned agents are judged against, on the same images of all loads mixed.

    Args:
        pacer: Its static schedules by the speed at the start (0b) and its rule.
        images: To judge on.
    """

    def __init__(self, pacer: Pacer, images: int) -> None:
        self._test = pacer.world.fixed(EVERY, images, _TEST_SEED)
        self._score_db = {
            name: standing(name, "mixed", self._test(), one).score_db
            for name, one in (("start", pacer.prior), ("rule", pacer.rule))
        }

    def judged(
        self, name: str, seed: int, decide: Decide
    ) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Play an agent; return its line of a table, and what it gains by opponent: (images,)."""
        fared = standing(name, "mixed", self._test(), decide)
        over = {key: fared.score_db - score_db for key, score_db in self._score_db.items()}
        line = {
            "agent": name,
            "seed": seed,
            "kept_share": round(fared.kept_share, 4),
            "psnr_db": round(fared.psnr_db, 2),
            "over_start_db": round(float(over["start"].mean()), 2),
            "over_rule_db": round(float(over["rule"].mean()), 2),
        }
        return line, over


@dataclass(frozen=True)
class Partial(Senses):
    """Sees nothing of some columns."""

    hidden: tuple[str, ...] = ()

    def read(self, moment: Moment) -> NDArray[np.float32]:
        """Return what a network reads, with zeros in what is hidden."""
        seen = super().read(moment)
        seen[:, [AGENT_NAMES.index(name) for name in self.hidden]] = 0.0
        return seen


def _without(senses: Senses, *begins: str) -> Senses:
    hidden = tuple(name for name in AGENT_NAMES if name.startswith(begins))
    assert all(any(name.startswith(one) for name in hidden) for one in begins), "names have changed"
    return Partial(senses.forecast, senses.prior, hidden)


#: What is left out of the agent, by name.
_ABLATIONS: dict[str, Callable[[Senses], Senses]] = {
    "whole": lambda senses: senses,
    "no forecast": lambda senses: _without(senses, "forecast", "log_gain"),
    "no gains of computing": lambda senses: _without(senses, "log_gain"),
    "no mean jump": lambda senses: _without(senses, "mean_jump"),
    "no quality so far": lambda senses: _without(senses, "psnr"),
}


def seeds(pacer: Pacer, sizes: Trainings) -> tuple[dict[str, float], Lines]:
    """Train with several seeds, and once for every ablation; judge on all loads mixed.

    Returns:
        Figures and lines of a table.
    """
    world, promised = pacer.world, pacer.pacing.promised_share
    opponents = Opponents(pacer, sizes.test)
    lines: Lines = []
    gains: list[Mapping[str, Floats]] = []
    tried = [("whole", seed) for seed in range(sizes.seeds)]
    tried += [(name, 0) for name in _ABLATIONS if name != "whole"]
    for name, seed in track(tried, "agents"):
        network = foreseen(world, EVERY, pacer.placement, pacer.prior, seed=seed)
        own = Senses(Forecast(network.on_host()), pacer.prior)
        senses = _ABLATIONS[name](own)
        actor = learn_agent(world, EVERY, senses, promised=promised, images=sizes.learn, seed=seed)
        line, over = opponents.judged(name, seed, Agent(actor.on_host(), senses))
        if name == "whole":
            gains.append(over)
        lines.append(line)
    figures = {
        "seeds_count": float(sizes.seeds),
        "seeds_over_start_count": float(sum(mean_interval(one["start"]).low > 0 for one in gains)),
        "seeds_below_rule_count": float(sum(mean_interval(one["rule"]).high < 0 for one in gains)),
    }
    return figures, lines
