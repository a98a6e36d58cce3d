"""Carry schedules, and what was fitted to them, over to other noise levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ditcache_rl.schedules.forecast import added_to_lines, path_coefficients
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.schedules.spacing import cut_down, pay_up
from ditcache_rl.schedules.table import ScheduleTable, Scored
from ditcache_rl.types import Floats, Mode


class _Move(NamedTuple):
    """Where a schedule goes."""

    way: float
    """Sum of what the computed steps move by, in noise level."""
    old: NDArray[np.int64]
    """Its computed steps."""
    new: NDArray[np.int64]
    """Those of the run that it is carried to."""
    spaced: bool
    """Whether it was evenly spaced and is so again: then gaps are others than were fitted."""


def carry(sources: Sequence[ScheduleTable], sigmas: Floats) -> ScheduleTable:
    """Carry schedules over to the steps of another run, by noise level.

    As many sites compute: with forecasts between, that tells how exact a run is, hardly how many
    are left out. What was fitted to a gap is kept for it. Each number of computes is carried from
    the table whose computed steps move least, of those with fitted coefficients if there are any.

    Args:
        sources: Schedules of other runs, all of the same sites.
        sigmas: (steps + 1,) noise levels of the run.

    Returns:
        A schedule for every number of computes of the sources that the run has steps for, and full
        compute. The quality is that of the sources, floors are unknown.
    """
    sites = sources[0].sites
    full = Scored(Schedule(np.zeros((len(sigmas) - 1, sites), dtype=np.int8)))
    for table in sources:
        if (known := table.get(table.site_steps)) is not None:
            full = full._replace(psnr_db=known.psnr_db, ssim=known.ssim)
    carried = [full]
    for computes in sorted({count for table in sources for count in table}):
        known_at = [table for table in sources if computes in table]
        fitted = [t for t in known_at if t[computes].schedule.coefficients is not None]
        moves = [
            (move, table)
            for table in fitted or known_at
            if computes < full.schedule.computes
            and (move := _move(table[computes].schedule, table.sigmas, sigmas)) is not None
        ]
        if moves:
            move, table = min(moves, key=lambda pair: pair[0].way)
            schedule, psnr_db, ssim = table[computes][:3]
            carried.append(Scored(_moved(schedule, move, table.sigmas, sigmas), psnr_db, ssim))
    return ScheduleTable.of(sigmas, carried)


def rescale(table: ScheduleTable, sigmas: Floats, *, computes: Iterable[int]) -> ScheduleTable:
    """Carry schedules over to another run, and make some compute as many sites as is asked for.

    Where nothing that is carried computes just so many, computed steps are added in the longest
    gaps of the schedule that has most nearly as many, or taken where gaps are shortest.

    Args:
        table: Schedules of the old run.
        sigmas: (new steps + 1,) noise levels of the new run.
        computes: Site computes in the new run, each at least those of one step.

    Returns:
        What `carry` does, and a schedule for every number asked for; none of them scored.
    """
    carried = carry([table], sigmas)
    schedules = [one.schedule for one in carried.values()]
    known = np.array(list(carried))
    for wanted in set(computes) - set(carried):
        nearest = schedules[int(np.abs(known - wanted).argmin())]
        schedules.append(pay_up(cut_down(nearest, wanted), wanted))
    return ScheduleTable.of(sigmas, schedules)


def _move(schedule: Schedule, own: Floats, sigmas: Floats) -> _Move | None:
    """Give every computed step one of its own that is near in noise level; the ends stay ends.

    What was evenly spaced is evenly spaced again: gaps of two and three steps, as they come, are
    not worth keeping. None if there are not as many steps.
    """
    old = np.array(schedule.path)
    if len(old) >= len(sigmas):
        return None
    ends = [0, -1] if old[-1] == schedule.steps - 1 > 0 else [0]
    inner = slice(1, len(old) + 1 - len(ends))
    away = np.abs(sigmas[None, 1 : len(sigmas) - len(ends)] - own[old[inner], None])
    # Squares keep the order, which the way itself leaves open.
    _, places = linear_sum_assignment(away**2)
    last = np.array([len(sigmas) - 2] * (len(ends) - 1), dtype=np.int64)
    new = np.concatenate([[0], np.sort(places) + 1, last])
    # Without a computed step at the end, the end of the run is where the next one would be.
    stops, stop = (old, last[0]) if len(last) else ([*old, schedule.steps], len(sigmas) - 1)
    spaced = not np.allclose(sigmas[new], own[old]) and bool(np.ptp(np.diff(stops)) <= 1)
    if spaced:
        new = np.linspace(0, stop, len(stops)).round().astype(np.int64)[: len(old)]
    return _Move(float(np.abs(sigmas[new] - own[old]).sum()), old, new, spaced)


def _moved(schedule: Schedule, move: _Move, own: Floats, sigmas: Floats) -> Schedule:
    """Carry one schedule; a step between is filled as the nearest one in noise level was."""
    steps = len(sigmas) - 1
    if schedule.coefficients is not None:
        path = tuple(move.new.tolist())
        filled = Schedule.on_path(path, steps)
        if move.spaced:
            return Schedule(np.minimum(filled.modes, Mode.FORECAST1))
        added = added_to_lines(schedule.path, own, schedule.coefficients)
        return Schedule(filled.modes, path_coefficients(path, sigmas, added))
    idle = np.setdiff1d(np.arange(schedule.steps), move.old)
    if len(idle):
        nearest = np.abs(sigmas[:-1, None] - own[None, idle]).argmin(axis=1)
        modes = schedule.modes[idle][nearest]
    else:
        modes = np.full((steps, schedule.sites), Mode.FORECAST1, dtype=np.int8)
    modes[move.new] = schedule.modes[move.old]
    return Schedule(modes)
