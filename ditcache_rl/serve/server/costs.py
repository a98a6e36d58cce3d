"""What images take here that are drawn side by side, by their pixels and what each computes.

An image costs something for itself, and a step at which some are computed together something for
itself and something for each of them. Four drawings at the policy's own size tell these numbers.
An image of another size is taken
for as many rows as it has times the pixels: no image takes less, as every layer works through all
tokens. Attention grows faster, by how much is not foreseen but learned: once images of a size were
served, they count for as many rows as they took, and sizes between and beyond go by those that are
known.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self

import numpy as np

from ditcache_rl.inference import Target
from ditcache_rl.serve.server.meeting import WorkDone
from ditcache_rl.serve.server.painter import Painted, Painter
from ditcache_rl.serve.server.ticket import DrawnTicket, ImageTicket

#: Of the logarithm of what was taken over what was foretold, which is believed: about the last
#: three images count, as other work comes and goes.
_BELIEVED = 0.3
#: Rows that are measured: of more, each adds as much.
_MEASURED_ROWS = 4
_TINY_S = 1e-6
#: An image may take so much more than beside as many as may be, if it need not share with them:
#: who is drawn is done sooner.
_PAYS = 1.1
#: Prompt and seed that drawings are measured with.
_PROMPT, _SEED = "a photo", 0
#: Sizes that are remembered, the last ones: callers choose them.
_MOST_SIZES = 32
#: Powers of the pixels with which time may grow: that of linear layers, and that of attention.
_LINEAR, _SQUARE = 1.0, 2.0


class CallCosts:
    """Foretells seconds, and learns from what was drawn.

    Args:
        row_s: Of each image, whatever it computes.
        compute_s: Of a step at which any are computed.
        compute_row_s: Of each that is.
        own_px: Pixels of an image of the size that was measured.
        forwards: Modules that are computed for a site compute of an image.

    Attributes:
        slowness: Of the machine now, over that when it was measured.
        own_px: Pixels of an image of the size that was measured.
    """

    def __init__(
        self,
        *,
        row_s: float,
        compute_s: float,
        compute_row_s: float,
        own_px: int,
        forwards: float = 1.0,
    ) -> None:
        self._row_s = row_s
        self._compute_s, self._compute_row_s = compute_s, max(compute_row_s, _TINY_S)
        self.slowness, self.own_px = 1.0, own_px
        self._forwards = forwards
        self._loads = {own_px: 1.0}

    @classmethod
    def measured(
        cls,
        seconds: Callable[[int, int], float],
        *,
        rows: int,
        least: int,
        most: int,
        own_px: int,
        forwards: float = 1.0,
    ) -> Self:
        """Measure four drawings.

        Args:
            seconds: Draws so many images with so many site computes each, and says what that took.
            rows: Most that are drawn at a time.
            least: Fewest site computes.
            most: All of them.
            own_px: Pixels of an image.
            forwards: Modules that are computed for a site compute of an image.
        """
        many = min(rows, _MEASURED_ROWS)
        at = {count: (seconds(count, least), seconds(count, most)) for count in {1, many}}
        slopes = {n: max(full - few, 0.0) / max(1, most - least) for n, (few, full) in at.items()}
        row_s = max(at[many][0] - least * slopes[many], 0.0) / many
        compute_row_s = (slopes[many] - slopes[1]) / (many - 1) if many > 1 else slopes[1]
        return cls(
            row_s=row_s,
            compute_s=max(0.0, slopes[1] - max(compute_row_s, 0.0)),
            compute_row_s=compute_row_s,
            own_px=own_px,
            forwards=forwards,
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
        """Return for how many rows of the policy's own size images count."""
        return sum(self.load(one.size) for one in batch)

    def rows_within(self, size: tuple[int, int] | None, rows: int) -> int:
        """Return how many images have no more pixels than so many of the policy's own size."""
        return max(1, min(rows, rows * self.own_px // self.pixels(size)))

    def left(self, drawing: DrawnTicket) -> int:
        """Return the site computes that an image has to come."""
        return drawing.left(self._forwards)

    def around_s(self, rows: float) -> float:
        """Return what images take beside their computes."""
        return self.slowness * self._row_s * rows

    def together_s(self, computes: float, rows: float) -> float:
        """Return what so many computes take that are made of rows together."""
        return self.slowness * computes * (self._compute_s + self._compute_row_s * rows)

    def batch_s(self, computes: float, rows: float) -> float:
        """Return what rows take that are drawn side by side and compute the same."""
        return self.around_s(rows) + self.together_s(computes, rows)

    def rows_that_pay(self, most: int, computes: int) -> int:
        """Return how many images to draw at a time: more share what there is, and gain little.

        Args:
            most: That may be drawn at a time.
            computes: Of each.
        """
        each_s = [self.batch_s(computes, rows) / rows for rows in range(1, most + 1)]
        return 1 + next(place for place, one in enumerate(each_s) if one <= _PAYS * min(each_s))

    def note(self, work: WorkDone, taken_s: float, size: tuple[int, int] | None = None) -> None:
        """Learn from an image: at the policy's own size how slow the machine is, else of the size.

        Args:
            work: What was done from its begin to its end, for images of its size.
            taken_s: What that took.
            size: Of the image; None for the policy's own.
        """
        call_s = self._compute_s * work.forwards / self._forwards
        row_s = self._row_s * work.images + self._compute_row_s * work.rows / self._forwards
        foretold_s, px = call_s + self.load(size) * row_s, self.pixels(size)
        if min(foretold_s, taken_s) <= 0:
            return
        if px == self.own_px:
            self.slowness *= (taken_s / (self.slowness * foretold_s)) ** _BELIEVED
            return
        # What is faster than its pixels allow was foretold from drawings that were slow by chance.
        found = max((taken_s / self.slowness - call_s) / max(row_s, _TINY_S), px / self.own_px)
        loads = dict(self._loads)
        before = loads.pop(px, found)
        loads[px] = before * (found / before) ** _BELIEVED
        if len(loads) > _MOST_SIZES:
            del loads[next(one for one in loads if one != self.own_px)]
        self._loads = loads  # as a whole: others read meanwhile


def measured_costs(painter: Painter, *, rows: int) -> CallCosts:
    """Time a few drawings, after some that nobody times: one alone, and two side by side.

    Args:
        painter: Draws them.
        rows: Most that are drawn at a time.
    """
    steps = painter.policy.steps[0]
    table = painter.policy.tables[steps]

    def drawn(*computes: int) -> tuple[list[DrawnTicket], list[Painted]]:
        ticket = ImageTicket(_PROMPT, _SEED, steps, None, 1, 1, None, np.inf, False)
        drawings = [DrawnTicket(ticket, count) for count in computes]
        return drawings, _side_by_side(painter, drawings)

    drawn(table.least)  # tells what a call runs
    (first,), (alone,) = drawn(max(table))
    if rows > 1:  # two that compute at other steps tell whether they can be computed together
        drawn(max(table), next((count for count in table if count > 1), 1))
    return CallCosts.measured(
        lambda count, computes: max(one.seconds for one in drawn(*[computes] * count)[1]),
        rows=rows,
        least=table.least,
        most=max(table),
        own_px=alone.image.width * alone.image.height,
        forwards=max(1.0, first.forwards / max(table)),
    )


def _side_by_side(painter: Painter, drawings: Sequence[DrawnTicket]) -> list[Painted]:
    """Draw in threads, which end before their errors are raised."""
    steps = painter.policy.tables[drawings[0].ticket.steps].site_steps
    answers = [Future[Painted]() for _ in drawings]

    def draw(drawing: DrawnTicket, answer: Future[Painted]) -> None:
        try:
            answer.set_result(painter.draw(drawing, Target(budget=drawing.computes / steps)))
        except BaseException as error:
            answer.set_exception(error)

    threads = [
        threading.Thread(target=draw, args=one, daemon=True)
        for one in zip(drawings, answers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one.result() for one in answers]
