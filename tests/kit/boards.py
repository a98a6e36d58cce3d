"""A board whose scores are known in closed form, so that searches are tested without a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditcache_rl.bench import Board, Case, Quality
from ditcache_rl.types import Floats, Modes


class Puzzle(Board):
    """Likes a hidden schedule: 60 dB for it, 1 dB less for every site that differs."""

    def __init__(self, hidden: Modes, *, rows: int = 8) -> None:
        self.pipe = self.blocks = None  # nothing to calibrate on
        self.steps, self.sites = hidden.shape
        self.rows = rows
        self.hidden = hidden
        #: Every schedule that was scored, in order.
        self.scored: list[Modes] = []

    def value(self, modes: Modes) -> float:
        """Return the decibels of a schedule."""
        return 60.0 - float((modes != self.hidden).sum())

    def score(
        self,
        cases: Sequence[Case],
        schedules: Sequence[Modes],
        weights: Sequence[Floats] | None = None,
    ) -> Quality:
        """Score schedules as the real board does, without drawing anything."""
        assert len(cases) == len(schedules)
        assert weights is None
        self.scored += schedules
        decibels = np.array([self.value(modes) for modes in schedules])
        return Quality(decibels, decibels / 60)

    def sigmas(self) -> Floats:
        """Return evenly spaced noise levels."""
        return np.linspace(1, 0, self.steps + 1)


def hidden_schedule(steps: int, sites: int, seed: int) -> Modes:
    """Draw a schedule whose first step computes everything."""
    modes = np.random.default_rng(seed).integers(4, size=(steps, sites))
    modes[0] = 0
    return modes.astype(np.int8)
