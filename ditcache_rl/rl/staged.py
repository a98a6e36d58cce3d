"""How far a training is, by its stages."""

from __future__ import annotations

import time
from collections.abc import Callable

from ditcache_rl.config import EnvConfig
from ditcache_rl.types import Progress, Tick

#: Share of the whole time that each stage takes on the default environment, for the bar alone.
_STAGES = {
    "profile": 0.025,
    "references": 0.09,
    "search": 0.34,
    "floors": 0.04,
    "safe": 0.13,
    "rescale": 0.14,
    "place": 0.0,
    "pace": 0.165,
    "learn": 0.025,
    "compare": 0.045,
}


def _idle(config: EnvConfig) -> set[str]:
    """Name the stages that an environment leaves without work."""
    working = {
        "rescale": len(config.steps) > 1,
        "place": config.world.prices_memory,
        "pace": bool(config.world.loads),
    }
    return {stage for stage, works in working.items() if not works}


class StagedBar:
    """Counts shares of stages as shares of the whole, without those that have no work.

    Args:
        bar: Hears how far it is.
        config: Leaves stages without work.
        clock: Seconds, from anywhere.

    Attributes:
        seconds: That stages with work have taken, as far as they have ended.
    """

    def __init__(
        self, bar: Progress, config: EnvConfig, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._bar, self._done, self._stage = bar, 0.0, ""
        self.seconds: dict[str, float] = {}
        self._clock, self._entered = clock, clock()
        self._idle = _idle(config)
        shares = _STAGES.items()
        self._shares = {name: 0.0 if name in self._idle else share for name, share in shares}
        bar.expect(sum(self._shares.values()))

    def enter(self, stage: str) -> None:
        """Begin a stage; the one before counts as done."""
        self.end()
        self._done += self._shares.get(self._stage, 0.0)
        self._stage = stage
        self._bar.reach(self._done)
        if stage not in self._idle:
            self._bar.stage(stage)

    def end(self) -> None:
        """Note how long the stage under way has taken."""
        now = self._clock()
        if self._stage and self._stage not in self._idle:
            self.seconds[self._stage] = now - self._entered
        self._entered = now

    def tick(self, share: float, note: str) -> None:
        """Move within the stage."""
        self._bar.reach(self._done + self._shares[self._stage] * min(1.0, share))
        self._bar.say(f"{self._stage} {note}".rstrip())

    def part(self, index: int, parts: int) -> Tick:
        """Return a `tick` for one of several equal parts of the stage."""
        return lambda share, note: self.tick((index + share) / parts, note)
