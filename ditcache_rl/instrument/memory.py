"""What one request remembers of every span on every branch, and how much of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache import NEVER, TieredCache, next_uses
from ditcache_rl.instrument.attendance import Attendance
from ditcache_rl.instrument.blocks import Span
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.instrument.lookahead import LookAhead
from ditcache_rl.instrument.state import SpanKey, SpanState
from ditcache_rl.types import HISTORY, MemoryView, Modes, Tier


class RequestMemory:
    """The histories of one request, and what they may keep.

    Args:
        cache: Where residuals are kept.
        request: Names the entries of the request in the cache.
        max_bytes: Most bytes that the request may keep; None for no limit.
    """

    def __init__(self, cache: TieredCache, request: int, max_bytes: int | None) -> None:
        self._cache, self._request, self._max_bytes = cache, request, max_bytes
        self._states: dict[SpanKey, SpanState] = {}
        self._held: dict[SpanKey, int] = {}
        self.begin(0, None)

    def begin(self, rows: int, planned: Modes | None) -> None:
        """Forget everything and begin a run.

        Args:
            rows: Samples of the request.
            planned: (steps, rows, sites) modes, if they are known.
        """
        self.forget()
        self._rows = rows
        self._attendance = Attendance()
        self._uses = None if planned is None else next_uses(planned)
        #: Steps at which what is planned computes everything and reads nothing of it later.
        self.idle = _idle_steps(planned, self._uses)
        self._ahead = LookAhead(self._cache, planned) if self._cache.looks_ahead else None

    def forget(self) -> None:
        """Free all entries."""
        self._cache.discard_request(self._request)
        self._states.clear()
        self._held.clear()

    def begin_step(self) -> None:
        """Free what branches have computed that nobody calls any more."""
        self.drop(self._attendance.begin_step())

    def attend(self, branches: Sequence[int]) -> list[int]:
        """Note which branches are called, and free those whose places they have taken.

        Returns:
            Branches that have gone for good.
        """
        self.drop(self._attendance.call(branches))
        return self._attendance.forgotten()

    def drop(self, branches: Collection[int]) -> None:
        """Free the entries of some branches."""
        for key in [key for key in self._states if key[0] in branches] if branches else ():
            for entry in self._states.pop(key).history.keys(HISTORY):
                self._cache.discard(entry)
            self._held.pop(key, None)

    def state(self, layout: Layout, branch: int, span: Span, shapes: tuple[Any, ...]) -> SpanState:
        """Return what is known of a span on a branch; a history of other shapes is forgotten."""
        key = _key(layout, branch, span)
        state = self._states.get(key)
        if state is None or state.shapes != shapes:
            history = SiteHistory(
                self._cache,
                self._request,
                *key,
                self._rows,
                visit=(span.index, len(layout.spans)),
                uses=None if self._uses is None else self._uses[:, span.site],
            )
            state = self._states[key] = SpanState(key, history, shapes)
        return state

    def site_histories(self, layout: Layout, branch: int) -> list[SiteHistory]:
        """Return a history per site: that of its first span, empty before the first visit."""
        found = []
        for span in layout.site_heads:
            key = _key(layout, branch, span)
            state = self._states.get(key)
            found.append(
                SiteHistory(self._cache, self._request, *key, self._rows)
                if state is None
                else state.history
            )
        return found

    def views(self, layout: Layout, branch: int) -> list[MemoryView]:
        """Tell every row where the entries of a branch lie; a batch shares them."""
        device, histories = self._cache.device, self.site_histories(layout, branch)
        newest = [history.keys(1) for history in histories]
        tiers = [self._cache.tier_of(keys[0]) if keys else Tier.DROP for keys in newest]
        shared = device.free_share, device.cap_share, np.array(tiers, dtype=np.int8)
        valid = np.stack([history.valid for history in histories], axis=1)
        return [MemoryView(*shared, own) for own in valid]

    def record(
        self,
        states: Sequence[SpanState],
        residual: Tensor,
        rows: NDArray[np.int64],
        tiers: NDArray[np.int8],
        *,
        step: int,
        sigma: float,
    ) -> None:
        """Remember the residual that some rows computed; rows whose tier is DROP are left out.

        A batch tensor lies in one tier: the fastest that any of its rows asks for; one must.

        Args:
            states: Of a span on the branches in the batch.
            residual: (branches × rows, features).
            rows: Rows of each branch that computed.
            tiers: (rows,) of all rows.
            step: At which they did.
            sigma: Its noise level.
        """
        wanted = tiers[rows] != Tier.DROP
        tier = Tier(int(tiers[rows][wanted].min()))
        count = len(rows)
        for chunk, state in enumerate(states):
            part = residual[chunk * count : (chunk + 1) * count] if len(states) > 1 else residual
            if not wanted.all():
                part = part[torch.as_tensor(np.flatnonzero(wanted), device=part.device)]
            elif len(states) > 1:
                part = part.clone()  # a view would keep the bytes of the other branches
            if self._may_keep(state.key, part):
                state.history.record(part, rows[wanted], step, sigma, tier)

    def _may_keep(self, key: SpanKey, part: Tensor) -> bool:
        """Tell whether a history may grow to its full length under the limit of the request."""
        if self._max_bytes is None:
            return True
        self._held[key] = HISTORY * part.element_size() * part[0].numel() * self._rows
        if sum(self._held.values()) <= self._max_bytes:
            return True
        del self._held[key]
        return False

    def look_ahead(
        self, layout: Layout, branches: Sequence[int], span: Span, step: int, decided: Modes
    ) -> None:
        """Have the cache, if it can, load what the coming spans will read, branch by branch.

        Args:
            layout: Of the denoiser.
            branches: In the present batch.
            span: The present span.
            step: The present step.
            decided: (rows, sites) modes of the present step.
        """
        if self._ahead is None:
            return
        sites = [other.site for other in layout.spans]
        for branch in branches:
            states = [self._states.get(_key(layout, branch, other)) for other in layout.spans]
            histories = [None if state is None else state.history for state in states]
            self._ahead.visit(histories, sites, step, span.index, decided)


def _idle_steps(planned: Modes | None, uses: NDArray[np.int64] | None) -> Mapping[int, bool]:
    """Tell at which steps there is nothing to decide and nothing to keep; never where unplanned."""
    if planned is None or uses is None:
        return defaultdict(bool)
    computed = ~planned.any(axis=(1, 2))
    return dict(enumerate((computed & (uses[:, :, 0] == NEVER).all(axis=1)).tolist()))


def _key(layout: Layout, branch: int, span: Span) -> SpanKey:
    return branch, layout.first_span + span.index
