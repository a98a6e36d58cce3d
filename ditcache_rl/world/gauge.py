"""How fast the machine is, as whoever makes an image sees it: from the times of computed steps."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.types import Floats

#: What a new reading weighs in each moving average, from quick to slow.
RATES = (0.6, 0.25, 0.08)
#: What a new reading weighs in each mean of how much readings jump, the slower one over images.
JUMPS = (0.05, 0.01)
#: A jump of the logarithm that is nothing special: even loads are below and fast ones above it.
#: As much as so many readings of it is what a new gauge knows of jumps.
_JUMP, _KNOWN = 0.08, 20
#: The steadiest and the wildest that simulated machines are; those beyond are told as these.
_STEADY, _WILD = 0.05, 0.25
#: Readings that are remembered one by one.
LAST = 4


class Gauge:
    """Moving averages of the logarithm of the slowdown, and its course within an image.

    The averages and the mean jumps outlive an image, so that the next one starts with what the last
    ones saw; `begin` opens an image.

    Attributes:
        averages: (rows, RATES) logarithms of the slowdown.
        last: (rows, LAST) newest readings, newest first; the average where there is none yet.
    """

    def __init__(self, rows: int) -> None:
        self.averages = np.zeros((rows, len(RATES)))
        self._jumps = np.full((rows, len(JUMPS)), _JUMP)
        self._read = np.zeros((rows, 1))
        self.begin()

    def begin(self) -> None:
        """Open an image: its start is what the quickest average says."""
        quick = self.averages[:, 0]
        self.last = np.repeat(quick[:, None], LAST, axis=1)
        self._start, self._least, self._most = quick.copy(), quick.copy(), quick.copy()
        self._count = np.zeros(len(quick))
        self._sum, self._squares = np.zeros(len(quick)), np.zeros(len(quick))

    def note(self, slowdowns: Floats, rows: NDArray[np.bool_] | None = None) -> None:
        """Take readings in.

        Args:
            slowdowns: (rows,) what a step took over what it takes on an unloaded machine, above 0.
            rows: Which rows have one; all by default.
        """
        read = np.log(slowdowns)
        if rows is None:
            rows = np.ones(len(read), dtype=bool)
        again = (rows & (self._read[:, 0] > 0))[:, None]
        rates = np.maximum(JUMPS, 1 / (self._read + _KNOWN))
        moved = self._jumps + rates * (np.abs(read - self.last[:, 0])[:, None] - self._jumps)
        self._jumps = np.where(again, moved, self._jumps)
        # The first ones count alike: what was there before them was no reading.
        self._read += rows[:, None]
        rates = np.maximum(RATES, 1 / np.maximum(self._read, 1))
        moved = self.averages + rates * (read[:, None] - self.averages)
        self.averages = np.where(rows[:, None], moved, self.averages)
        shifted = np.concatenate([read[:, None], self.last[:, :-1]], axis=1)
        self.last = np.where(rows[:, None], shifted, self.last)
        self._least = np.where(rows, np.minimum(self._least, read), self._least)
        self._most = np.where(rows, np.maximum(self._most, read), self._most)
        self._count += rows
        self._sum += rows * read
        self._squares += rows * read**2

    def facts(self) -> Floats:
        """Return (rows, len(NAMES)) what an agent sees."""
        count = np.maximum(self._count, 1.0)
        mean = self._sum / count
        spread = np.sqrt(np.maximum(self._squares / count - mean**2, 0.0))
        quick = self.averages[:, :1]
        jumps = np.minimum(np.maximum(self._jumps, _STEADY), _WILD)
        return np.concatenate(
            [
                self.averages,
                self.last - quick,
                np.stack([self._start, self._least, self._most, spread], axis=1),
                2 * np.log(jumps / _JUMP),
            ],
            axis=1,
        )

    def copy(self) -> Self:
        """Return one that goes its own way from here."""
        twin = type(self)(len(self.averages))
        twin.__dict__.update({name: value.copy() for name, value in self.__dict__.items()})
        return twin


#: Names of `Gauge.facts`; logarithms of the slowdown, those of single steps against the quickest
#: average, and of how much it jumps between two computes against what is usual, doubled.
NAMES = (
    *(f"slowdown_at_rate_{rate:g}" for rate in RATES),
    *(f"slowdown_{age}_computes_ago" for age in range(LAST)),
    "slowdown_at_start",
    "least_slowdown",
    "most_slowdown",
    "spread_of_slowdown",
    *(f"mean_jump_at_rate_{rate:g}" for rate in JUMPS),
)
#: Places of those that tell the slowdown itself, and not how it differs.
ABSOLUTE = tuple(
    place
    for place, name in enumerate(NAMES)
    if not name.startswith(("spread", "mean_jump")) and not name.endswith("ago")
)
