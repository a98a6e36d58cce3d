"""What is known of the requests on some machines when a rule decides."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ConfigError
from ditcache_rl.queueing.fronts import Bools, Fronts, Ints
from ditcache_rl.types import Floats

#: Computes that a rule never granted.
NONE_YET = -1


class TickCosts(NamedTuple):
    """Seconds of a tick by what the rows of a batch do in it."""

    compute_s: Floats
    """(rows + 1,) by the number of rows that compute; the first is 0."""
    estimate_s: float = 0.0
    """Of each step that a row does not compute."""

    @classmethod
    def affine(cls, rows: int, call_s: float, row_s: float) -> TickCosts:
        """Charge a call and each row in it.

        Raises:
            ConfigError: If there is no row, or one costs nothing.
        """
        if rows < 1 or call_s < 0 or row_s <= 0:
            raise ConfigError(
                f"expected rows >= 1, call_s >= 0 and row_s > 0, received {rows}, {call_s}, {row_s}"
            )
        compute_s = call_s + row_s * np.arange(rows + 1.0)
        compute_s[0] = 0.0
        return cls(compute_s)

    @property
    def rows(self) -> int:
        """Most rows of a batch."""
        return len(self.compute_s) - 1

    def mean_s(self, computing: Floats) -> Floats:
        """Return what ticks take in which so many rows compute in the mean."""
        return np.interp(computing, np.arange(len(self.compute_s)), self.compute_s)

    def image_s(self, steps: int) -> float:
        """Return what an image takes alone with every step computed."""
        return float(self.compute_s[1]) * steps

    def capacity(self, steps: int) -> float:
        """Return the images per second of full batches with every step computed."""
        return self.rows / (float(self.compute_s[-1]) * steps)


class QueueState(NamedTuple):
    """Rows that are being drawn and requests that wait, on machines side by side.

    A server has one machine.
    """

    now_s: Floats
    """(machines,)"""
    active: Bools
    """(machines, rows); where it is False, the other numbers of a row mean nothing."""
    step: Ints
    """(machines, rows) step that is next."""
    older: Ints
    """(machines, rows) computed step before the newest, equal to it while there is one."""
    newest: Ints
    """(machines, rows) last computed step, 0 where there is none."""
    spent: Floats
    """(machines, rows) cost of the closed gaps."""
    made: Ints
    """(machines, rows) computes so far."""
    left: Ints
    """(machines, rows) computes left of what was granted last, `NONE_YET` for a new row."""
    deadline_s: Floats
    """(machines, rows)"""
    waiting_s: Floats
    """(machines, places) deadlines of the requests that wait, ascending, inf for no request."""

    @classmethod
    def empty(cls, machines: int, rows: int, places: int) -> QueueState:
        """Have nothing to do at second 0."""

        def zeros() -> Ints:
            return np.zeros((machines, rows), dtype=np.int64)

        return cls(
            now_s=np.zeros(machines),
            active=np.zeros((machines, rows), dtype=np.bool_),
            step=zeros(),
            older=zeros(),
            newest=zeros(),
            spent=np.zeros((machines, rows)),
            made=zeros(),
            left=zeros() + NONE_YET,
            deadline_s=np.full((machines, rows), np.inf),
            waiting_s=np.full((machines, places), np.inf),
        )

    @property
    def waiting(self) -> Ints:
        """(machines,) requests that wait."""
        count: Ints = np.isfinite(self.waiting_s).sum(axis=1)
        return count

    def psnr_db(self, fronts: Fronts) -> Floats:
        """Return what each active row can reach by further computes: (machines, rows, T + 1)."""
        reached = np.zeros((*self.active.shape, fronts.steps + 1))
        older, newest, step = (part[self.active] for part in (self.older, self.newest, self.step))
        reached[self.active] = fronts.psnr_db(older, newest, step, self.spent[self.active])
        return reached


def finish_s(
    queue: QueueState,
    computes: Ints,
    fresh: Ints,
    ticks: TickCosts,
    steps: int,
    *,
    together: bool,
) -> tuple[Floats, Floats]:
    """Foretell how long from now each row and each waiting request takes.

    Rows that wait begin in the order of their deadlines as others end. What they leave free again
    counts as busy, so that the answer is rather too long.

    Args:
        queue: What there is to do.
        computes: (..., machines, rows) further computes of the active rows.
        fresh: (..., machines) computes of each waiting request.
        ticks: What a tick takes.
        steps: Denoising steps.
        together: Whether rows that are due wait for each other: then a tick is a compute of every
            row; else a step of every row.

    Returns:
        Seconds of rows, (..., machines, rows), 0 where none is active; and of waiting requests,
        (..., machines, most that wait anywhere), of whichever is at that place.
    """
    waiting = queue.waiting
    if together:
        lasts, rate = np.where(queue.active, computes, 0), queue.active.astype(np.float64)
        fresh_lasts, fresh_rate = fresh, np.ones(fresh.shape)
    else:
        lasts = np.where(queue.active, steps - queue.step, 0)
        rate = np.where(queue.active, computes, 0) / np.maximum(lasts, 1)
        fresh_lasts, fresh_rate = np.full(fresh.shape, steps), fresh / steps
    shape, rows = computes.shape, computes.shape[-1]
    lasts, rate = (np.broadcast_to(part, shape).reshape(-1, rows) for part in (lasts, rate))
    # From one end of a row to the next, the same compute at every tick: those that are left, and
    # those that have begun in the place of others.
    every, order = np.arange(len(lasts))[:, None], lasts.argsort(axis=1)
    ends = _from_zero(lasts[every, order])
    left = rate.sum(axis=1, keepdims=True) - _from_zero(rate[every, order].cumsum(axis=1))
    begun = np.minimum(waiting[:, None], np.arange(rows + 1)) * fresh_rate[..., None]
    tick_s = ticks.mean_s(left + begun.reshape(-1, rows + 1))
    until_s = _from_zero(((ends[:, 1:] - ends[:, :-1]) * tick_s[:, :-1]).cumsum(axis=1))
    rows_s = np.empty(lasts.shape)
    rows_s[every, order] = until_s[:, 1:]
    place = np.arange(int(waiting.max(initial=0)))
    waits = ends[:, 1 + place % rows] + fresh_lasts.reshape(-1, 1) * (place // rows + 1)
    between = np.zeros(waits.shape, dtype=np.int64)  # ends of rows before a waiting one's
    for end in range(1, rows + 1):
        between += waits >= ends[:, end, None]
    waiting_s = until_s[every, between] + (waits - ends[every, between]) * tick_s[every, between]
    return rows_s.reshape(shape), waiting_s.reshape(*shape[:-1], len(place))


def _from_zero(values: NDArray[Any]) -> NDArray[Any]:
    """Put a zero before each line of (lines, n) values."""
    return np.concatenate([np.zeros_like(values[:, :1]), values], axis=1)
