"""What a call of the pipeline takes here, by its rows and by what each of them computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.inference import Target
from ditcache_rl.queueing import TickCosts
from ditcache_rl.serve.server.painter import Painter
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


class CallCosts:
    """Foretells seconds of calls, and learns from those that were made.

    Args:
        fixed_s: Of a call.
        row_s: Of each row, whatever it computes.
        compute_s: Of a step at which any row computes.
        compute_row_s: Of each row that does.

    Attributes:
        slowness: Of the machine now, over that when it was measured.
    """

    def __init__(
        self, *, fixed_s: float, row_s: float, compute_s: float, compute_row_s: float
    ) -> None:
        self._fixed_s, self._row_s = fixed_s, row_s
        self._compute_s, self._compute_row_s = compute_s, max(compute_row_s, _TINY_S)
        self.slowness = 1.0

    @classmethod
    def measured(
        cls, seconds: Callable[[int, int], float], *, rows: int, least: int, most: int
    ) -> Self:
        """Measure four calls.

        Args:
            seconds: Draws so many rows with so many site computes each, and says what that took.
            rows: Most of a call.
            least: Fewest site computes.
            most: All of them.
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
        )

    def around_s(self, rows: int) -> float:
        """Return the seconds of a call beside its computes."""
        return self.slowness * (self._fixed_s + self._row_s * rows)

    def seconds(self, computing: NDArray[np.int64], rows: int) -> float:
        """Return the seconds of a call.

        Args:
            computing: (steps × sites,) rows that compute at each.
            rows: Of the call.
        """
        steps = int((computing > 0).sum())
        compute_s = self._compute_s * steps + self._compute_row_s * float(computing.sum())
        return self.around_s(rows) + self.slowness * compute_s

    def batch_s(self, computes: float, rows: int) -> float:
        """Return the seconds of a call of rows that compute the same."""
        one_s = self._compute_s + self._compute_row_s * rows
        return self.around_s(rows) + self.slowness * computes * one_s

    def ticks(self, rows: int, sites: int) -> TickCosts:
        """Return what a step takes by the rows that compute at it."""
        return TickCosts.affine(
            rows,
            call_s=self.slowness * sites * self._compute_s,
            row_s=self.slowness * sites * self._compute_row_s,
        )

    def rows_that_pay(self, most: int, computes: int) -> int:
        """Return how many images to draw at a time: more wait for each other, and for little.

        Args:
            most: That may be drawn at a time.
            computes: Of each, where there is most to do.
        """
        each_s = [self.batch_s(computes, rows) / rows for rows in range(1, most + 1)]
        return 1 + next(place for place, one in enumerate(each_s) if one <= _PAYS * min(each_s))

    def note(self, foretold_s: float, taken_s: float) -> None:
        """Learn from a call."""
        if foretold_s > 0 and taken_s > 0:
            self.slowness *= (taken_s / foretold_s) ** _BELIEVED


def measured_costs(painter: Painter, *, rows: int) -> CallCosts:
    """Time a few calls, after one that nobody times.

    Args:
        painter: Draws them.
        rows: Most of a call.
    """
    steps = painter.policy.steps[0]
    table = painter.policy.tables[steps]

    def seconds(count: int, computes: int) -> float:
        ticket = ImageTicket(_PROMPT, _SEED, steps, None, 1, 1, None, np.inf, False)
        target = Target(budget=computes / table.site_steps)
        return painter.draw([ticket] * count, [target] * count).seconds

    seconds(1, table.least)
    return CallCosts.measured(seconds, rows=rows, least=table.least, most=max(table))
