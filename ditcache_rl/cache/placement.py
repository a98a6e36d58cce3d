"""What to keep where: pure functions of what is known of the future.

With a static schedule the future is known: entries that nothing reads are not written, entries are
freed at their last use, and what is needed last goes first (Belady). Online the order of the visits
is known and whether they reuse is not, so distance is weighed with the chance of reuse.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.types import HISTORY, Mode, Modes

#: A step that never comes.
NEVER = np.iinfo(np.int64).max


class Outlook(NamedTuple):
    """What is known of an entry's future, on the clock of its request: step * sites + site."""

    now: int
    next_use: int
    """When it is read next, or may be; NEVER if it is not."""
    chance: float = 1.0
    """Of being read then."""


def next_uses(modes: Modes) -> NDArray[np.int64]:
    """Tell from a schedule when each residual of a site is read next.

    A site knows its residuals newest first. Computing shifts them by one place; a forecast of order
    m reads the newest m + 1.

    Args:
        modes: (steps, rows, sites); a residual of the batch is used when any row uses it.

    Returns:
        (steps, sites, HISTORY) step at which what lies in a place after a step is read next, or
        NEVER. If a place is used, so are all before it.
    """
    steps, rows, sites = modes.shape
    uses = np.full((steps, rows, sites, HISTORY), NEVER, dtype=np.int64)
    places = np.arange(HISTORY)
    for step in range(steps - 2, -1, -1):
        later = uses[step + 1]
        shifted = np.concatenate([later[..., 1:], np.full_like(later[..., :1], NEVER)], axis=-1)
        following = modes[step + 1][..., None]
        read = np.where(places < following, step + 1, later)
        uses[step] = np.where(following == Mode.COMPUTE, shifted, read)
    found: NDArray[np.int64] = uses.min(axis=1)
    return found


class Habit:
    """What a site has done at its visits so far, to guess what it does at the next one.

    Whether a residual is read again depends on its age: sites refresh after about as many visits as
    last time. So reads are counted per age, and where an age is new, the last age at a refresh is
    the guess.
    """

    def __init__(self) -> None:
        self._age = 0
        self._last_age: int | None = None
        self._visits = self._reads = 0
        self._by_age: dict[int, tuple[int, int]] = {}

    def visit(self, read: bool) -> None:
        """Note that the site was visited, and either read its residual or computed a new one."""
        if self._visits:
            reads, visits = self._by_age.get(self._age, (0, 0))
            self._by_age[self._age] = reads + read, visits + 1
        self._visits += 1
        self._reads += read
        if read:
            self._age += 1
        else:
            self._last_age, self._age = self._age if self._visits > 1 else None, 0

    @property
    def chance(self) -> float:
        """Probability that the next visit reads the residual."""
        if self._last_age is None:
            guess = (self._reads + 1) / (self._visits + 2)
        else:
            guess = 1 / (1 + math.exp(min(self._age - self._last_age, 50)))
        reads, visits = self._by_age.get(self._age, (0, 0))
        return (reads + guess) / (visits + 1)


def keep_value(outlook: Outlook | None, now: int, nbytes: int) -> float:
    """Say how much keeping an entry in a fast tier is worth; the least goes first.

    The expected reads per byte and unit of time. Without an outlook nothing is known against it.
    """
    if outlook is None:
        return float("inf")
    if outlook.next_use == NEVER:
        return 0.0
    return outlook.chance / (max(1, outlook.next_use - now) * max(1, nbytes))
