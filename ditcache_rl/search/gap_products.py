"""What is told of gaps, so that the error of any coefficients follows without drawing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules import ComputePath
from ditcache_rl.schedules.gaps import gap_basis
from ditcache_rl.search.calibrate import Products
from ditcache_rl.types import HISTORY, Floats

#: Gaps of full compute that are drawn.
_OPEN = 20_000
#: Share of what a gap of full compute has to move, below which its squared error counts as this.
_FLOOR = 1e-5


class GapProducts(NamedTuple):
    """What images tell of the gaps on their way: of a single one each, or of a whole path.

    A gap's update is told along the directions of `gap_basis`; those of all gaps of an image stand
    one after the other. What a gap without a step does is not up to anybody: it moves nothing.
    """

    known: NDArray[np.int64]
    """(images, gaps, HISTORY) newest computed steps, newest first, -1 where there is none."""
    stops: NDArray[np.int64]
    """(images, gaps)."""
    gram: Floats
    """(images, gaps * HISTORY, gaps * HISTORY) inner products of what the directions do."""
    moment: Floats
    """(images, gaps * HISTORY) of them with what all together have to do."""
    square: Floats
    """(images,) of what they have to do."""
    least: Floats
    """(images,) is added to squared errors: what is smaller counts little."""

    @classmethod
    def joined(cls, parts: Sequence[GapProducts]) -> GapProducts:
        """Put images together; gaps that move nothing stand in where one has fewer than others."""
        gaps = max(part.stops.shape[1] for part in parts)
        wide = [part.widened(gaps) for part in parts]
        return cls(*(np.concatenate(columns) for columns in zip(*wide, strict=True)))

    def errors(self, along: Floats) -> Floats:
        """Return the squared errors of updates along the directions, (images, gaps, HISTORY)."""
        flat = along.reshape(len(self.square), -1)
        spread = np.einsum("ni,nij,nj->n", flat, self.gram, flat)
        return np.asarray(self.square - 2 * (flat * self.moment).sum(axis=1) + spread)

    def widened(self, gaps: int) -> GapProducts:
        """Add gaps that move nothing, so that there are so many."""
        more = gaps - self.stops.shape[1]
        wide = (0, more * HISTORY)
        return self._replace(
            known=np.pad(self.known, ((0, 0), (0, more), (0, 0)), mode="edge"),
            stops=np.pad(self.stops, ((0, 0), (0, more)), mode="edge"),
            gram=np.pad(self.gram, ((0, 0), wide, wide)),
            moment=np.pad(self.moment, ((0, 0), wide)),
        )


def gaps_of(path: ComputePath, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the gaps of a path: (gaps, HISTORY) newest computed steps, and (gaps,) where each ends.

    There is one after every computed step, be there a step in it or not.
    """
    known = np.full((len(path), HISTORY), -1, dtype=np.int64)
    for depth in range(min(HISTORY, len(path))):
        known[depth:, depth] = path[: len(path) - depth]
    return known, np.array([*path[1:], steps])


def open_gaps(products: Products, rng: np.random.Generator) -> GapProducts:
    """Draw gaps of full compute: none lacks anything where it begins."""
    gram, sigmas = products
    cases, steps = gram.shape[:2]
    moves = np.diff(sigmas)
    numbers = rng.integers(cases, size=_OPEN)
    first = rng.integers(0, max(1, steps - 3), size=_OPEN)
    count = rng.integers(1, HISTORY + 1, size=_OPEN)
    longest = max(2, steps // 2 - 1)
    apart = rng.integers(1, max(2, steps // 3), size=(_OPEN, HISTORY - 1))
    known = np.full((_OPEN, HISTORY), -1, dtype=np.int64)
    ends = np.concatenate([first[:, None], first[:, None] + apart.cumsum(axis=1)], axis=1)
    for number in range(_OPEN):
        own = np.unique(np.minimum(ends[number, : count[number]], steps - 2))
        known[number, : len(own)] = own[::-1]
    stops = np.minimum(known[:, 0] + rng.integers(2, longest + 1, size=_OPEN), steps)
    there = known >= 0
    inside = (np.arange(steps) >= known[:, :1]) & (np.arange(steps) < stops[:, None])
    moved = inside * moves
    own = gram[numbers]
    outputs = np.take_along_axis(own, np.maximum(known, 0)[:, :, None], axis=1)
    moment = np.einsum("git,gt->gi", outputs, moved) * there
    square = np.einsum("gs,gst,gt->g", moved, own, moved)
    at = np.take_along_axis(outputs, np.maximum(known, 0)[:, None, :], axis=2)
    at *= there[:, :, None] & there[:, None, :]
    basis = gap_basis(known, stops, sigmas)
    return GapProducts(
        known[:, None],
        stops[:, None],
        np.einsum("gij,gjk,glk->gil", basis, at, basis),
        np.einsum("gij,gj->gi", basis, moment),
        square,
        _FLOOR * square,
    )
