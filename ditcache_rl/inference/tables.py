"""The schedules of a policy for any noise levels: its own ones, or carried over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditcache_rl.schedules import ScheduleTable, Scored, carry
from ditcache_rl.schedules.gaps import LONGEST, schedule_on
from ditcache_rl.schedules.placement import Placement, costs_at, path_cost
from ditcache_rl.types import Floats
from ditcache_rl.world import Pacer

#: Tables that were made for other noise levels are kept for so many of them.
_KEPT = 32
#: Times as much as the best place that what is carried over may cost: 1 dB, since coefficients that
#: were fitted to it are worth about as much.
_LOSS = 10**0.1


class Tables:
    """Schedules by noise level; those that were made for others are kept.

    Args:
        sources: What there is.
        pacer: Knows what gaps cost, and coefficients of every path; None if nothing does.
    """

    def __init__(self, sources: Sequence[ScheduleTable], pacer: Pacer | None = None) -> None:
        self._sources, self._pacer = sources, pacer
        self._made: dict[bytes, ScheduleTable] = {}

    def at(self, sigmas: Floats) -> ScheduleTable:
        """Return the table for (steps + 1,) noise levels.

        Where it is known what gaps cost, few computes are placed by that if what is carried over
        costs much more. All count for what the schedules of the sources are worth.
        """
        for table in self._sources:
            if table.is_at(sigmas):
                return table
        key = sigmas.tobytes()
        if key not in self._made:
            if len(self._made) == _KEPT:
                self._made.pop(next(iter(self._made)), None)  # another thread may do so
            self._made[key] = self._make(sigmas)
        return self._made[key]

    def notes(self) -> list[str]:
        """Say what was made for other noise levels."""
        made_for = ", ".join(str(table.steps) for table in self._sources)
        return [
            f"schedules for {count} steps were carried over by noise level from those for "
            f"{made_for}; what they are worth was not measured"
            for count in sorted({table.steps for table in self._made.values()})
        ]

    def _make(self, sigmas: Floats) -> ScheduleTable:
        carried = carry(self._sources, sigmas)
        # Gaps are of latents that lose noise.
        if self._pacer is None or not (np.diff(sigmas) < 0).all():
            return carried
        gaps, costs = self._pacer.gaps, costs_at(self._pacer.costs, self._pacer.sigmas, sigmas)
        placement = Placement(costs, LONGEST - 1)
        better: dict[int, Scored] = {}
        for count, known in carried.items():
            path = placement.path(count)
            spares = path_cost(costs, known.schedule.path) > _LOSS * path_cost(costs, path)
            if spares and len(path) == count:
                better[count] = known._replace(schedule=schedule_on(path, gaps, sigmas))
        return carried.with_lines(better)
