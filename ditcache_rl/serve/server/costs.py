"""What a call of the pipeline takes here, by its rows, their pixels and what each computes.

A call costs something for itself, something for each row, and likewise a step at which rows
compute. Four calls at the policy's own size tell these numbers. An image of another size is taken
for as many rows as it has times the pixels: no image takes less, as every layer works through all
tokens. Attention grows faster, by how much is not foreseen but learned: once images of a size were
served, they count for as many rows as they took, and sizes between and beyond go by those that are
known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.inference import Target
from ditcache_rl.queueing import TickCosts
from ditcache_rl.serve.server.painter import Painted, Painter
from ditcache_rl.serve.server.ticket import ImageTicket

#: Of the logarithm of what a call took over what was foretold, which is believed: about the last
#: three calls count, as other work comes and goes.
_BELIEVED = 0.3
#: Rows that are measured: of more, each adds as much.
_MEASURED_ROWS = 4
_TINY_S = 1e-6
#: An image may take so much more than in the largest batch, if it need not wait for that. In the
#: queue of docs/serving.md images are .2 to .4 dB better than at 1.1: who comes waits for less.
_PAYS = 1.25
#: Prompt and seed that calls are measured with.
_PROMPT, _SEED = "a photo", 0
#: Sizes that are remembered, the last ones: callers choose them.
_MOST_SIZES = 32
#: Powers of the pixels with which time may grow: that of linear layers, and that of attention.
_LINEAR, _SQUARE = 1.0, 2.0


class CallCosts:
    """Foretells seconds of calls, and learns from those that were made.

    Args:
        fixed_s: Of a call.
        row_s: Of each row, whatever it computes.
        compute_s: Of a step at which any row computes.
        compute_row_s: Of each row that does.
        own_px: Pixels of an image of the size that was measured.

    Attributes:
        slowness: Of the machine now, over that when it was measured.
        own_px: Pixels of an image of the size that was measured.
    """

    def __init__(
        self,
        *,
        fixed_s: float,
        row_s: float,
        compute_s: float,
        compute_row_s: float,
        own_px: int,
    ) -> None:
        self._fixed_s, self._row_s = fixed_s, row_s
        self._compute_s, self._compute_row_s = compute_s, max(compute_row_s, _TINY_S)
        self.slowness, self.own_px = 1.0, own_px
        self._loads = {own_px: 1.0}

    @classmethod
    def measured(
        cls, seconds: Callable[[int, int], float], *, rows: int, least: int, most: int, own_px: int
    ) -> Self:
        """Measure four calls.

        Args:
            seconds: Draws so many rows with so many site computes each, and says what that took.
            rows: Most of a call.
            least: Fewest site computes.
            most: All of them.
            own_px: Pixels of an image.
        """
        many = min(rows, _MEASURED_ROWS)
        at = {count: (seconds(count, least), seconds(count, most)) for count in {1, many}}
        slopes = {n: max(full - few, 0.0) / max(1, most - least) for n, (few, full) in at.items()}
        fixed = {n: max(few - least * slopes[n], 0.0) for n, (few, _) in at.items()}
        apart = max(1, many - 1)
        row_s = max(0.0, (fixed[many] - fixed[1]) / apart) if many > 1 else fixed[1]
        compute_row_s = max(0.0, (slopes[many] - slopes[1]) / apart) if many > 1 else slopes[1]
        return cls(
            fixed_s=max(0.0, fixed[1] - row_s),
            row_s=row_s,
            compute_s=max(0.0, slopes[1] - compute_row_s),
            compute_row_s=compute_row_s,
            own_px=own_px,
        )

    def pixels(self, size: tuple[int, int] | None) -> int:
        """Return the pixels of an image; None for the policy's own size."""
        return self.own_px if size is None else size[0] * size[1]

    def load(self, size: tuple[int, int] | None) -> float:
        """Return for how many rows of the policy's own size an image counts."""
        px, loads = self.pixels(size), self._loads
        if px in loads:
            return loads[px]
        known = sorted(loads)
        if known[0] < px < known[-1]:
            logs = np.log([loads[one] for one in known])
            return float(np.exp(np.interp(math.log(px), np.log(known), logs)))
        nearest, power = known[0 if px < known[0] else -1], _LINEAR
        if px > nearest and len(known) > 1:
            before = known[-2]
            grown = math.log(loads[nearest] / loads[before]) / math.log(nearest / before)
            power = min(max(grown, _LINEAR), _SQUARE)
        return float(loads[nearest] * (px / nearest) ** power)

    def rows_of(self, batch: Sequence[ImageTicket]) -> float:
        """Return for how many rows of the policy's own size the images of a call count."""
        return len(batch) * self.load(batch[0].size)

    def rows_within(self, size: tuple[int, int] | None, rows: int) -> int:
        """Return how many images have no more pixels than so many of the policy's own size."""
        return max(1, min(rows, rows * self.own_px // self.pixels(size)))

    def around_s(self, rows: float) -> float:
        """Return the seconds of a call beside its computes."""
        return self.slowness * (self._fixed_s + self._row_s * rows)

    def seconds(
        self, computing: NDArray[np.int64], rows: int, size: tuple[int, int] | None = None
    ) -> float:
        """Return the seconds of a call.

        Args:
            computing: (steps × sites,) rows that compute at each.
            rows: Of the call.
            size: Of each; None for the policy's own.
        """
        call_s, row_s = self._parts(computing, rows)
        return self.slowness * (call_s + self.load(size) * row_s)

    def _parts(self, computing: NDArray[np.int64], rows: int) -> tuple[float, float]:
        """Return what a call costs for itself, and for its rows at the policy's own size."""
        steps = int((computing > 0).sum())
        return (
            self._fixed_s + self._compute_s * steps,
            self._row_s * rows + self._compute_row_s * float(computing.sum()),
        )

    def batch_s(self, computes: float, rows: float) -> float:
        """Return the seconds of a call of rows that compute the same."""
        one_s = self._compute_s + self._compute_row_s * rows
        return self.around_s(rows) + self.slowness * computes * one_s

    def ticks(self, rows: int, sites: int, size: tuple[int, int] | None = None) -> TickCosts:
        """Return what a step takes by the rows of a size that compute at it."""
        return TickCosts.affine(
            rows,
            call_s=self.slowness * sites * self._compute_s,
            row_s=self.slowness * sites * self._compute_row_s * self.load(size),
        )

    def rows_that_pay(self, most: int, computes: int) -> int:
        """Return how many images to draw at a time: more wait for each other, and for little.

        Args:
            most: That may be drawn at a time.
            computes: Of each, where there is most to do.
        """
        each_s = [self.batch_s(computes, rows) / rows for rows in range(1, most + 1)]
        return 1 + next(place for place, one in enumerate(each_s) if one <= _PAYS * min(each_s))

    def note(
        self,
        computing: NDArray[np.int64],
        rows: int,
        taken_s: float,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Learn from a call: at the policy's own size how slow the machine is, else of the size.

        Arguments as of `seconds`, and what it took.
        """
        foretold_s, px = self.seconds(computing, rows, size), self.pixels(size)
        if min(foretold_s, taken_s) <= 0:
            return
        if px == self.own_px:
            self.slowness *= (taken_s / foretold_s) ** _BELIEVED
            return
        call_s, row_s = self._parts(computing, rows)
        # What is faster than its pixels allow was foretold from calls that were slow by chance.
        found = max((taken_s / self.slowness - call_s) / max(row_s, _TINY_S), px / self.own_px)
        loads = dict(self._loads)
        before = loads.pop(px, found)
        loads[px] = before * (found / before) ** _BELIEVED
        if len(loads) > _MOST_SIZES:
            del loads[next(one for one in loads if one != self.own_px)]
        self._loads = loads  # as a whole: others read meanwhile


def measured_costs(painter: Painter, *, rows: int) -> CallCosts:
    """Time a few calls, after one that nobody times.

    Args:
        painter: Draws them.
        rows: Most of a call.
    """
    steps = painter.policy.steps[0]
    table = painter.policy.tables[steps]

    def drawn(count: int, computes: int) -> Painted:
        ticket = ImageTicket(_PROMPT, _SEED, steps, None, 1, 1, None, np.inf, False)
        target = Target(budget=computes / table.site_steps)
        return painter.draw([ticket] * count, [target] * count)

    width, height = drawn(1, table.least).images[0].size
    return CallCosts.measured(
        lambda count, computes: drawn(count, computes).seconds,
        rows=rows,
        least=table.least,
        most=max(table),
        own_px=width * height,
    )
