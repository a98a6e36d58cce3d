"""Compare anything with the best static schedule and the oracle of a table, prompt by prompt.

`Yardstick` is where a learner is measured: hand it PSNR on the held-out prompts and
the number of computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.trees.table import STEPS, Table
from benchmarks.trees.tree import tree_index
from ditcache_rl.bench import Case, Quality
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Floats

#: Steps computed that are looked at; from 8 of 12 on nearly every image reaches the cap of PSNR.
COMPUTES = (2, 3, 4, 5, 6, 7)
#: Headroom in dB below which nobody can take a share of it.
LEAST_HEADROOM_DB = 0.05
_RESAMPLES = 9999
#: Decibels by which a prompt's best schedule must beat the static one to count as different.
DIFFERENT_DB = 0.5


def percent(computes: int) -> int:
    """Return a share of full compute as the figures name it."""
    return round(100 * computes / STEPS)


class Share(NamedTuple):
    """A ratio of two means with its 95 % interval."""

    value: float
    low: float
    high: float


class Yardstick:
    """The best static schedule and the oracle of one table, on held-out prompts.

    Args:
        table: All schedules.
        computes: Steps that compute.
        ends: Whether only schedules that compute the last step count.
    """

    def __init__(self, table: Table, computes: int, *, ends: bool = False) -> None:
        self.table, self.computes = table, computes
        self.index = table.computing(computes, ends=ends)
        means = table.choose.psnr_db[:, self.index].mean(axis=0)
        #: Index of the schedule that is best on the prompts to choose on.
        self.chosen = int(self.index[np.argmax(means)])
        self.chosen_db = float(means.max())
        #: (held-out prompts,) under that schedule, and under each prompt's own best.
        self.static: Floats = table.held_out.psnr_db[:, self.chosen]
        self.oracle: Floats = table.held_out.psnr_db[:, self.index].max(axis=1)

    @property
    def schedule(self) -> Schedule:
        """The best static schedule."""
        return Schedule(self.table.schedules[self.chosen][:, None])

    def headroom(self) -> Interval:
        """Return what the oracle gains over the static schedule, in dB."""
        return mean_interval(self.oracle - self.static)

    def gain(self, psnr_db: Floats) -> Interval:
        """Return what a contender gains over the static schedule, in dB: (held-out prompts,)."""
        return mean_interval(psnr_db - self.static)

    def share(self, psnr_db: Floats, rng: np.random.Generator) -> Share | None:
        """Return how much of the headroom a contender takes; None where there is hardly any.

        A ratio is no mean: prompts are resampled.
        """
        ours, room = psnr_db - self.static, self.oracle - self.static
        if room.mean() < LEAST_HEADROOM_DB:
            return None
        draws = rng.integers(len(room), size=(_RESAMPLES, len(room)))
        ratios = ours[draws].mean(axis=1) / np.maximum(room[draws].mean(axis=1), 1e-3)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return Share(float(ours.mean() / room.mean()), float(low), float(high))


class TableBoard:
    """Scores schedules of a table on the prompts to choose on, without drawing anything.

    Args:
        table: All schedules.
        sigmas: (steps + 1,) noise levels of its steps.
    """

    def __init__(self, table: Table, sigmas: Floats) -> None:
        self.steps, self.sites, self.rows = STEPS, 1, 32
        self._sigmas = sigmas
        self._scores = dict(zip(table.choose.cases, table.choose.psnr_db, strict=True))

    def sigmas(self) -> Floats:
        """Return the noise levels."""
        return self._sigmas

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Look PSNR up; the table has no SSIM, and no fitted forecasts."""
        assert all(schedule.coefficients is None for schedule in schedules)
        index = tree_index(np.stack([schedule.modes[:, 0] for schedule in schedules]))
        found = [self._scores[case][i] for case, i in zip(cases, index, strict=True)]
        return Quality(np.array(found), np.zeros(len(found)))
