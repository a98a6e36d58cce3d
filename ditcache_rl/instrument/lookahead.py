"""Load what the coming sites read while the present ones compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ditcache_rl.cache import TieredCache
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import EntryKey, Mode, Modes

#: Visits to look at; the cache stops earlier, when the device has no room for more.
_VISITS = 16


class LookAhead:
    """Ask the cache for entries in the order in which a request will read them.

    With planned modes that is what they say. Without them, what the present step has decided,
    and at the next step what reuse would read: a compute step is when there is time to load.

    Args:
        cache: Asked to prefetch.
        planned: (steps, rows, sites) modes, if they are known.
    """

    def __init__(self, cache: TieredCache, planned: Modes | None) -> None:
        self._cache = cache
        self._counts = None if planned is None else planned.max(axis=1)

    def visit(
        self,
        histories: Sequence[SiteHistory | None],
        sites: Sequence[int],
        step: int,
        span: int,
        decided: Modes,
    ) -> None:
        """Note that a span has read what it needs.

        Args:
            histories: Of the branch, one per span of the denoiser; None before its first visit.
            sites: Site of each span.
            step: The present step.
            span: The present span.
            decided: (rows, sites) modes of the present step.
        """
        self._cache.prefetch(self._coming(histories, sites, step, span, decided))

    def _coming(
        self,
        histories: Sequence[SiteHistory | None],
        sites: Sequence[int],
        step: int,
        span: int,
        decided: Modes,
    ) -> Iterator[EntryKey]:
        here = step * len(sites) + span
        fresh = set()  # spans whose residual of then is not computed yet
        for position in range(here, here + _VISITS + 1):
            then, where = divmod(position, len(sites))
            if self._counts is not None:
                if then >= len(self._counts):
                    return
                count = int(self._counts[then, sites[where]])
            else:
                count = int(decided[:, sites[where]].max()) if then == step else int(Mode.REUSE)
            history = histories[where]
            if count == Mode.COMPUTE:
                fresh.add(where)
            elif position > here and where not in fresh and history is not None:
                yield from history.keys(count)
