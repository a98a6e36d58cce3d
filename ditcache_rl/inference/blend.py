"""Keep a floor over many requests: by turns a schedule that does and one that nearly does.

A floor for every request takes the cheapest schedule whose images keep it in the promised share.
Over many requests that share is kept by less: some follow a cheaper schedule, as many as there are
images to spare under the dearer one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from ditcache_rl.schedules import Schedule, Scored

#: Share of the images that keep a floor.
PROMISED_SHARE = 0.95
#: Of the golden ratio: its multiples are spread more evenly than those of any other number.
_GOLDEN = 0.5 * (5**0.5 - 1)
#: Shares of sums that differ by rounding alone.
_SAME = 1e-9


class Blend(NamedTuple):
    """Two schedules that requests follow by turns; both may be the same."""

    cheap: Schedule
    dear: Schedule
    dear_share: float
    """Of the requests that follow the dear one."""

    @property
    def mean_computes(self) -> float:
        """Site computes of a request."""
        spared = self.dear.computes - self.cheap.computes
        return self.dear.computes - (1 - self.dear_share) * spared

    def at(self, turn: float) -> Schedule:
        """Return the schedule of a request, by its place in [0, 1)."""
        return self.dear if turn < self.dear_share else self.cheap

    def __str__(self) -> str:
        """Say who computes how much."""
        total = self.dear.modes.size
        rest = f", the others {self.cheap.computes}" if self.dear_share < 1 else ""
        return (
            f"{self.dear_share:.0%} of the requests compute {self.dear.computes} of {total} site "
            f"steps{rest}: {self.mean_computes:.2f} in the mean"
        )


class Turns:
    """Places of requests in [0, 1), so that every part of it gets its share of any few of them."""

    def __init__(self) -> None:
        self._count = itertools.count(1)  # threads share it: `next` is atomic

    def take(self) -> float:
        """Return the next place."""
        return next(self._count) * _GOLDEN % 1.0


def cheapest_blend(known: Iterable[tuple[Scored, float]]) -> Blend | None:
    """Find the blend with the fewest computes that keeps a floor in the promised share.

    Args:
        known: Schedules, and the share of the prompts that reaches the floor under each.

    Returns:
        The blend; None if no schedule keeps the floor.
    """
    entries = list(known)
    dear = [(one.schedule, share) for one, share in entries if share >= PROMISED_SHARE - _SAME]
    cheap = [(one.schedule, share) for one, share in entries if share < PROMISED_SHARE - _SAME]
    blends = [Blend(one, one, 1.0) for one, _ in dear]
    blends += [
        Blend(low, high, min(1.0, (PROMISED_SHARE - few) / (many - few)))
        for low, few in cheap
        for high, many in dear
        if low.computes < high.computes
    ]
    return min(blends, key=lambda blend: blend.mean_computes, default=None)
