"""The schedules of a policy for any noise levels: its own ones, or carried over."""

from __future__ import annotations

from collections.abc import Sequence

from ditcache_rl.schedules import ScheduleTable, carry
from ditcache_rl.types import Floats

#: Tables that were carried over are kept for so many runs with noise levels of their own.
_KEPT = 32


class Tables:
    """Schedules by noise level; those that were carried over to others are kept.

    Args:
        sources: What there is.
    """

    def __init__(self, sources: Sequence[ScheduleTable]) -> None:
        self._sources = sources
        self._carried: dict[bytes, ScheduleTable] = {}

    def at(self, sigmas: Floats) -> ScheduleTable:
        """Return the table for (steps + 1,) noise levels."""
        for table in self._sources:
            if table.is_at(sigmas):
                return table
        key = sigmas.tobytes()
        if key not in self._carried:
            if len(self._carried) == _KEPT:
                self._carried.pop(next(iter(self._carried)), None)  # another thread may do so
            self._carried[key] = carry(self._sources, sigmas)
        return self._carried[key]

    def notes(self) -> list[str]:
        """Say what was carried over."""
        made_for = ", ".join(str(table.steps) for table in self._sources)
        return [
            f"schedules for {count} steps were carried over by noise level from those for "
            f"{made_for}; what they are worth was not measured"
            for count in sorted({table.steps for table in self._carried.values()})
        ]
