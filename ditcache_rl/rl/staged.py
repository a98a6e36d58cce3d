"""How far a training is, by its stages."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ditcache_rl.config import EnvConfig
from ditcache_rl.files import is_there, read_json, write_json
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
        file: Keeps the seconds, to which a training that goes on adds its own.
        clock: Seconds, from anywhere.

    Attributes:
        seconds: That stages with work have taken, as far as they have ended.
        total_s: All that was spent up to the last end of a stage.

    Raises:
        ArtifactError: If the file is damaged.
    """

    def __init__(
        self,
        bar: Progress,
        config: EnvConfig,
        file: Path,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bar, self._done, self._stage = bar, 0.0, ""
        spent = read_json(file) if is_there(file) else {}
        self.seconds: dict[str, float] = spent.get("stages", {})
        self.total_s: float = spent.get("total", 0.0)
        self._file, self._clock, self._entered = file, clock, clock()
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
        took, self._entered = now - self._entered, now
        if self._stage and self._stage not in self._idle:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + took
        self.total_s += took
        write_json(self._file, {"stages": self.seconds, "total": self.total_s})

    def tick(self, share: float, note: str) -> None:
        """Move within the stage."""
        self._bar.reach(self._done + self._shares[self._stage] * min(1.0, share))
        self._bar.say(f"{self._stage} {note}".rstrip())

    def part(self, index: int, parts: int) -> Tick:
        """Return a `tick` for one of several equal parts of the stage."""
        return lambda share, note: self.tick((index + share) / parts, note)
