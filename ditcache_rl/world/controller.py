"""Keep a deadline of a real request: a pacer that reads the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from ditcache_rl.machine import synchronize
from ditcache_rl.types import HISTORY, Decision, Fitted, Mode, Modes, RunInfo, StepInfo, Tier
from ditcache_rl.world.gauge import Gauge
from ditcache_rl.world.moment import Moment
from ditcache_rl.world.pacer import Pacer
from ditcache_rl.world.simulator import Decide


class Gauges:
    """What is known of the machine, which outlives requests: its speed, by the shape of latents.

    Attributes:
        reserve: Computes' worth of time at the present speed that is kept back, beyond what whoever
            decides keeps back itself: steps may scatter more than those that it knows.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Gauge] = {}
        self.reserve = 0.0

    def judge(self, modes: Modes, *, in_time: bool, promised_share: float) -> None:
        """Keep back more after a late request, and a little less after one in time.

        Where the promised share is in time, both even out; so in the long run it is, under any load
        that lets it be. A request that computed one step could not have been quicker, and says
        nothing.

        Args:
            modes: (steps, rows, sites) of the request, as in `RequestLog`; -1 where it broke off.
            in_time: Whether it came within its deadline.
            promised_share: Of requests in time.
        """
        computed = (modes == Mode.COMPUTE).any(axis=(1, 2)).sum()
        if (modes[-1] >= 0).all() and (in_time or computed > 1):
            self.reserve = max(0.0, self.reserve + promised_share - in_time)

    def of(self, latents: tuple[int, ...]) -> Gauge:
        """Return a gauge for new images, whose latents have a shape (rows, ...)."""
        known = self._known.get(latents)
        if known is None:
            known = Gauge(1)
            known.averages += math.log(latents[0])  # until one is timed: the rows come one by one
        gauge = known.copy()
        gauge.begin()
        return gauge

    def keep(self, latents: tuple[int, ...], gauge: Gauge) -> None:
        """Take over what was read while images of such latents were made."""
        self._known[latents] = gauge


class DeadlineController:
    """Compute as much as there is time for, and forecast the rest.

    All rows of a request are decided together: they end together. Where time has run out the rest
    is forecast, so a late image is late by as little as may be.

    Args:
        pacer: Decides.
        deadline_s: Seconds from the begin of the pipeline's call to its end.
        gauges: Of requests before.
        decide: In place of the pacer's own choice.
        clock: Reads seconds; that of `RunInfo.began`.
    """

    probe_blocks = 0

    def __init__(
        self,
        pacer: Pacer,
        deadline_s: float,
        *,
        gauges: Gauges | None = None,
        decide: Decide | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pacer, self._clock = pacer, clock
        self._given = deadline_s / pacer.pacing.compute_s
        self._gauges = Gauges() if gauges is None else gauges
        self._decide = decide or pacer.decide

    def reset(self, run: RunInfo) -> None:
        """Start a request."""
        self._run = run
        self._known = np.full((1, HISTORY), -1, dtype=np.int64)
        self._computed, self._lost = 0, 0.0
        self._before: float | None = None

    def forget(self, run: RunInfo) -> None:
        """Go on with the same clock: what was computed can't be forecast from any more."""
        self._known = np.full((1, HISTORY), -1, dtype=np.int64)

    def decide(self, info: StepInfo) -> Decision:
        """Read the clock, and compute if the pacer says so."""
        synchronize()  # the one of a step: work that is only queued has not been timed
        now = self._clock()
        if not self._computed:
            self._gauge = self._gauges.of(tuple(info.latents.shape))
        if self._before is not None:
            taken = (now - self._before) / self._pacer.pacing.compute_s
            self._gauge.note(np.array([max(taken, 1e-6)]))
            self._gauges.keep(tuple(info.latents.shape), self._gauge)
        newest = int(self._known[0, 0])
        compute = newest < 0 or bool(self._decide(self._moment(info.step, now))[0])
        self._before = now if compute else None
        shape = (info.run.rows, info.run.sites)
        tiers = np.full(shape, Tier.DEVICE, dtype=np.int8)
        if compute:
            if newest >= 0:
                self._lost += self._gap(info.step)
            self._known[0, 1:] = self._known[0, :-1]
            self._known[0, 0] = info.step
            self._computed += 1
            return Decision(np.full(shape, Mode.COMPUTE, dtype=np.int8), tiers)
        modes = np.full(shape, min((self._known >= 0).sum(), HISTORY), dtype=np.int8)
        own = self._pacer.gaps.coefficients(self._known, info.step, info.run.sigmas)
        rows = np.zeros(info.run.rows, dtype=np.int64)
        return Decision(modes, tiers, Fitted(self._known[rows], own[rows]))

    def _moment(self, step: int, now: float) -> Moment:
        pacing = self._pacer.pacing
        facts = self._gauge.facts()
        spent = (now - self._run.began) / pacing.compute_s
        kept = (pacing.after + self._gauges.reserve) * np.exp(facts[0, 0])
        left = self._given - spent - kept
        newest, older = (np.array([one]) for one in self._ends())
        return Moment(
            step=step,
            sigmas=self._run.sigmas,
            older=older,
            newest=newest,
            computed=np.array([self._computed]),
            left=np.array([left]),
            given=np.array([self._given]),
            gauge=facts,
            lost=np.array([self._lost]),
        )

    def _ends(self) -> tuple[int, int]:
        newest, older = (int(step) for step in self._known[0, :2])
        newest = max(newest, 0)
        return newest, older if older >= 0 else newest

    def _gap(self, stop: int) -> float:
        newest, older = self._ends()
        return float(self._pacer.costs[older, newest, stop])
