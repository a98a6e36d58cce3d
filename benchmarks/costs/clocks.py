"""Clocks around decisions and around the calls of a board."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

from ditcache_rl.bench import Board, Case, Drawn
from ditcache_rl.control import Controller
from ditcache_rl.machine import synchronize
from ditcache_rl.types import Decision, RunInfo, StepInfo


class Timed:
    """Times the decisions of another controller; copies of it share the list."""

    def __init__(self, inner: Controller) -> None:
        self.probe_blocks = inner.probe_blocks
        self.seconds: list[float] = []
        self._inner = inner

    def reset(self, run: RunInfo) -> None:
        """Start a request on a controller of its own."""
        self._inner = copy.copy(self._inner)
        self._inner.reset(run)

    def decide(self, info: StepInfo) -> Decision:
        """Decide, with nothing pending on the GPU before the clock starts."""
        synchronize()
        started = time.perf_counter()
        decision = self._inner.decide(info)
        self.seconds.append(time.perf_counter() - started)
        return decision


class ClockedBoard(Board):
    """Notes the seconds of every call under a controller that the pipeline itself took."""

    call_s: list[float]

    def draw(self, cases: Sequence[Case], controller: Controller | None = None) -> Drawn:
        """Draw as ever; waiting for decisions is not the pipeline's time."""
        if controller is None:
            return super().draw(cases)
        decisions = Timed(controller)
        drawn = super().draw(cases, decisions)
        self.call_s.append(drawn.seconds - sum(decisions.seconds))
        return drawn
