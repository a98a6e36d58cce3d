"""What is known of the requests on some machines when a rule decides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
        """Return what each row can reach by further computes: (machines, rows, T + 1)."""
        return fronts.psnr_db(self.older, self.newest, self.step, self.spent)


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
        computes: (machines, rows) further computes of the active rows.
        fresh: (machines,) computes of each waiting request.
        ticks: What a tick takes.
        steps: Denoising steps.
        together: Whether rows that are due wait for each other: then a tick is a compute of every
            row; else a step of every row.

    Returns:
        Seconds of rows, (machines, rows), 0 where none is active; and of waiting requests,
        (machines, places), of whichever is at that place.
    """
    active, machines = queue.active, len(queue.now_s)
    if together:
        lasts, rate = np.where(active, computes, 0), active.astype(np.float64)
        fresh_lasts, fresh_rate = fresh, np.ones(machines)
    else:
        lasts = np.where(active, steps - queue.step, 0)
        rate = np.where(active, computes, 0) / np.maximum(lasts, 1)
        fresh_lasts, fresh_rate = np.full(machines, steps), fresh / steps
    # What rows do at a tick is what they do at first, less what has ended until then.
    ended = (np.arange(machines)[:, None] * (steps + 1) + lasts).ravel()
    shape = machines, steps + 1
    stopped = np.bincount(ended, weights=rate.ravel(), minlength=machines * (steps + 1))
    freed = np.bincount(ended, minlength=machines * (steps + 1)).reshape(shape).cumsum(axis=1)
    computing = rate.sum(axis=1)[:, None] - stopped.reshape(shape).cumsum(axis=1)
    computing += np.minimum(queue.waiting[:, None], freed) * fresh_rate[:, None]
    until = np.zeros((machines, steps + 2))
    ticks.mean_s(computing).cumsum(axis=1, out=until[:, 1:])
    begins = np.sort(lasts, axis=1)
    place = np.arange(queue.waiting_s.shape[1])
    ends = begins[:, place % lasts.shape[1]] + fresh_lasts[:, None] * (place // lasts.shape[1] + 1)
    # When all rows have ended, time goes on as in the last tick.
    beyond = np.maximum(ends - steps, 0) * (until[:, -1] - until[:, -2])[:, None]
    at = np.arange(machines)[:, None]
    return until[at, lasts], until[at, np.minimum(ends, steps)] + beyond
