"""Images with deadlines on machines whose speed changes, thousands at a time.

Time is simulated, quality is what the costs of gaps add up to: a request takes microseconds. The
time that is spent depends on the total of work alone, so a trace is kept as the work that it allows
up to every moment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.types import Floats
from ditcache_rl.world.gauge import Gauge
from ditcache_rl.world.load import SLOTS
from ditcache_rl.world.moment import Moment, Prices

#: Relative scatter of the time of a computed step under an even load.
STEP_NOISE = 0.05
#: Images that a machine has made before: as many steps as its gauge remembers jumps of its speed.
BEFORE = 4


class GapCosts(NamedTuple):
    """What is known of the quality of any path of computed steps, without drawing an image."""

    sigmas: Floats
    """(T + 1,) noise levels."""
    costs: Floats
    """(T, T, T + 1) mean square that a gap adds to the image's error, as in `Placement`."""


def psnr_of(totals: Floats) -> Floats:
    """Return the PSNR in dB at a sum of costs; 60 dB, the cap, where there are none."""
    return np.asarray(-10 * np.log10(totals + 1e-6))


class Requests:
    """A batch of images that are being made, one denoising step at a time.

    Each follows `BEFORE` others on its machine, of which the moving averages of its speed know.

    Args:
        quality: Of paths.
        prices: Of steps.
        traces: (rows, slots) slowdown in each slot of 1 / SLOTS computes; long enough for those
            images and this one.
        given: (rows,) time that each image may take, in unloaded computes.
        rng: Draws the noise of steps.
    """

    def __init__(
        self,
        quality: GapCosts,
        prices: Prices,
        traces: Floats,
        given: Floats,
        *,
        rng: np.random.Generator,
    ) -> None:
        self.quality, self.prices, self.given = quality, prices, given
        rows, steps = len(given), len(quality.sigmas) - 1
        self.rows, self.steps = rows, steps
        work = np.cumsum(1 / (SLOTS * traces), axis=1)
        self._work = np.concatenate([np.zeros((rows, 1)), work], axis=1)
        self._slowest = float(traces.max())
        #: Of the steps of this image, whoever makes it, and of those before.
        self._noise = np.exp(STEP_NOISE * rng.standard_normal(((1 + BEFORE) * steps, rows)))
        self._gauge = Gauge(rows)
        self._now = np.zeros(rows)
        everyone = np.ones(rows, dtype=bool)
        for noise in self._noise[steps:]:
            self._compute(everyone, noise)
        self._start = self._now.copy()
        self._gauge.begin()
        self._now = self._after(prices.before)
        self.step = 0
        self._older = np.zeros(rows, dtype=np.int64)
        self._newest = np.full(rows, -1, dtype=np.int64)
        self.computed = np.zeros(rows, dtype=np.int64)
        self.costs = np.zeros(rows)

    def again(self) -> Requests:
        """Return the same images, to be made once more or in another way."""
        twin = copy.copy(self)
        twin._gauge = self._gauge.copy()
        return twin

    def moment(self) -> Moment:
        """Return what is known at the present step."""
        facts = self._gauge.facts()
        tail = self.prices.after * np.exp(facts[:, 0])
        newest = np.maximum(self._newest, 0)
        older = np.where(self.computed > 1, self._older, newest)
        return Moment(
            step=self.step,
            sigmas=self.quality.sigmas,
            older=older,
            newest=newest,
            computed=self.computed,
            left=self.given - (self._now - self._start) - tail,
            given=self.given,
            gauge=facts,
            lost=self.costs,
        )

    def play(self, compute: NDArray[np.bool_]) -> None:
        """Take the present step: (rows,) whether it computes; the first does in any case."""
        if self.step == 0:
            compute = np.ones(self.rows, dtype=bool)
        self._compute(compute, self._noise[self.step])
        self._now = np.where(compute, self._now, self._after(self.prices.idle))
        self._close_gap(compute, self.step)
        self._older = np.where(compute, np.maximum(self._newest, 0), self._older)
        self._newest = np.where(compute, self.step, self._newest)
        self.computed = self.computed + compute
        self.step += 1
        if self.step == self.steps:
            self._close_gap(np.ones(self.rows, dtype=bool), self.steps)
            self._now = self._after(self.prices.after)

    def outcome(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Return PSNR in dB and whether it came in time, (rows,) each, after the last step."""
        return psnr_of(self.costs), self._now - self._start <= self.given

    def so_far(self) -> Floats:
        """Return the PSNR in dB if everything from here on is computed: (rows,)."""
        return psnr_of(self.costs + self._gap(self.step))

    def room(self) -> Floats:
        """Return how many of the steps from here on could be computed in time: (rows,).

        All of the trace is known then, and nothing of the noise of steps; below 0 where even
        computing nothing takes too long.
        """
        allowed = self._work_at(self._start + self.given) - self._work_at(self._now)
        return allowed - self.prices.after - self.prices.idle * (self.steps - self.step)

    def _close_gap(self, ends: NDArray[np.bool_], stop: int) -> None:
        self.costs = self.costs + np.where(ends, self._gap(stop), 0.0)

    def _gap(self, stop: int) -> Floats:
        """Return what the present gap adds if it ends at a step: (rows,)."""
        newest = np.maximum(self._newest, 0)
        older = np.where(self.computed > 1, self._older, newest)
        return np.where(self._newest >= 0, self.quality.costs[older, newest, stop], 0.0)

    def _compute(self, rows: NDArray[np.bool_], work: Floats) -> None:
        """Compute a step in some rows, and read its time."""
        after = self._after(work)
        taken = np.maximum(after - self._now, 1e-9)
        self._now = np.where(rows, after, self._now)
        self._gauge.note(taken, rows)

    def _after(self, work: Floats | float) -> Floats:
        """Return when so much work from now on is done."""
        rows, last = np.arange(self.rows), self._work.shape[1] - 1
        # A trace that ends does so long past every deadline.
        wanted = np.minimum(self._work_at(self._now) + work, self._work[:, -1] * (1 - 1e-12))
        slot = self._places(self._now).astype(np.int64)
        most = int(np.max(work) * self._slowest * SLOTS) + 2
        for reach in 1 << np.arange(most.bit_length())[::-1]:
            ahead = np.minimum(slot + reach, last)
            slot = np.where(self._work[rows, ahead] <= wanted, ahead, slot)
        low, high = self._work[rows, slot], self._work[rows, slot + 1]
        return np.asarray((slot + (wanted - low) / (high - low)) / SLOTS)

    def _work_at(self, time: Floats) -> Floats:
        places = self._places(time)
        slot = places.astype(np.int64)
        rows = np.arange(self.rows)
        low, high = self._work[rows, slot], self._work[rows, slot + 1]
        return np.asarray(low + (places - slot) * (high - low))

    def _places(self, time: Floats) -> Floats:
        """Tell how many slots have gone by, at most all of the trace: (rows,)."""
        return np.clip(time * SLOTS, 0, self._work.shape[1] - 1 - 1e-9)


Decide = Callable[[Moment], NDArray[np.bool_]]
"""Tells which rows compute."""


def played(requests: Requests, decide: Decide) -> tuple[Floats, NDArray[np.bool_]]:
    """Play images to their end: PSNR in dB and whether they came in time, (rows,) each."""
    while requests.step < requests.steps:
        requests.play(decide(requests.moment()))
    return requests.outcome()
