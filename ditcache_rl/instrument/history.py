"""What one site has computed: its last residuals, row by row.

Only what a mode needs is fetched: one residual to reuse, one more per order of a forecast. Where
the schedule is known, so are the uses of every residual: what nothing reads again is not stored, or
is forgotten at its last use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache import NEVER, Habit, Outlook, TieredCache
from ditcache_rl.schedules.forecast import newton_coefficients, weighted_sum
from ditcache_rl.types import HISTORY, EntryKey, Fitted, Floats, Mode, Tier


class SiteHistory:
    """The last residuals of one site on one branch; implements `types.History`.

    An entry is one tensor for the whole batch. Where rows compute at different steps, a slot holds
    for every row that row's k-th newest residual.
    """

    def __init__(
        self,
        cache: TieredCache,
        request: int,
        branch: int,
        site: int,
        rows: int,
        *,
        visit: tuple[int, int] = (0, 1),
        uses: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin without residuals.

        Args:
            cache: Where they are kept.
            request: First part of their names.
            branch: Second part.
            site: Third part.
            rows: Rows of the batch.
            visit: Its place among the visits of a step, and how many there are.
            uses: (steps, HISTORY) step at which each place is read next; see `next_uses`. None if
                nobody knows.
        """
        self.steps: NDArray[np.int64] = np.full((HISTORY, rows), -1, dtype=np.int64)
        self.sigmas: Floats = np.zeros((HISTORY, rows))
        self.valid: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self._cache = cache
        self._name = (request, branch, site)
        (self._place, self._places), self._uses = visit, uses
        self._generations: list[int] = []
        self._next = 0
        self._step = 0
        self._habit = Habit()
        self._fetched: list[Tensor] = []

    def residuals(self) -> list[Tensor]:
        """Return the residuals that are still cached, newest first."""
        return self._fetch(HISTORY)

    def keys(self, count: int) -> list[EntryKey]:
        """Name the newest residuals."""
        return [EntryKey(*self._name, generation) for generation in self._generations[:count]]

    def estimate(
        self, modes: NDArray[np.int8], sigma: float, fitted: Fitted | None = None
    ) -> Tensor:
        """Reuse or forecast all rows: (rows, features); computing rows get the newest residual.

        Follows `effective` with the same modes, which has fetched what they need. Fitted
        coefficients count in rows that know exactly what these were fitted to.
        """
        residuals, self._fetched = self._fetched or self._fetch(int(modes.max())), []
        coefficients = np.zeros((len(modes), HISTORY))
        coefficients[:, 0] = 1.0
        forecast = modes > Mode.REUSE
        if fitted is not None:
            fits = self._fits(modes, fitted)
            coefficients[fits] = fitted.coefficients[fits]
            forecast &= ~fits
        for row in np.flatnonzero(forecast):
            coefficients[row] = newton_coefficients(
                self.sigmas[:, row], sigma, int(modes[row]) - Mode.REUSE
            )
        if modes.all():
            self._trim()
        return weighted_sum(residuals, coefficients)

    def _fits(self, modes: NDArray[np.int8], fitted: Fitted) -> NDArray[np.bool_]:
        """Tell which rows use just the residuals that coefficients were fitted to: (rows,)."""
        whole = (fitted.steps >= 0).sum(axis=1) == modes
        same = (self.steps == fitted.steps.T).all(axis=0)
        return np.asarray(whole & same & np.isfinite(fitted.coefficients[:, 0]))

    def effective(self, modes: NDArray[np.int8], step: int | None = None) -> NDArray[np.int8]:
        """Lower the order of forecasts to what is cached; nothing cached means compute.

        Args:
            modes: (rows,) as they are wished.
            step: The present step, where uses are known by step.
        """
        self._step = self._step if step is None else step
        self._fetched = []
        reads = bool(modes.any())
        self._habit.visit(reads)
        if not reads:
            return modes
        # A row can use no more than it knows, so nobody has to fetch more than that.
        self._fetched = self._fetch(int(np.minimum(modes, self.valid).max()))
        available = np.minimum(self.valid, len(self._fetched))
        allowed = np.minimum(modes, np.where(available > 0, available, Mode.COMPUTE))
        return np.asarray(allowed, dtype=np.int8)

    def record(
        self, residual: Tensor, rows: NDArray[np.int64], step: int, sigma: float, tier: Tier
    ) -> None:
        """Remember what some rows have computed.

        Args:
            residual: (len(rows), features), given away.
            rows: Indices of the rows that computed.
            step: Step of the residual.
            sigma: Its noise level.
            tier: Where to keep it.
        """
        self._step, self._fetched = step, []
        if self._uses is not None and self._uses[step, 0] == NEVER:
            # Nothing reads what was just computed, and then nothing reads what is older.
            self._replace([], tier, survivors=[])
            self._cache.skip_dead_writes()
        elif len(rows) == len(self.valid):
            self._push(residual, tier)
        else:
            self._scatter(residual, rows, tier)
        self.steps[1:, rows] = self.steps[:-1, rows]
        self.sigmas[1:, rows] = self.sigmas[:-1, rows]
        self.steps[0, rows], self.sigmas[0, rows] = step, sigma
        self.valid[rows] += 1
        np.minimum(self.valid, len(self._generations), out=self.valid)
        self._trim()

    def _push(self, residual: Tensor, tier: Tier) -> None:
        kept = HISTORY if self._uses is None else int((self._uses[self._step] < NEVER).sum())
        self._replace([residual], tier, survivors=self._generations[: kept - 1])

    def _scatter(self, residual: Tensor, rows: NDArray[np.int64], tier: Tier) -> None:
        """Shift the slots of some rows and leave the other rows as they are."""
        index = torch.as_tensor(rows, device=residual.device)
        old = self.residuals()
        # No row may know more than is cached: what is missing would be read as zeros later.
        np.minimum(self.valid, len(old), out=self.valid)
        if not old:
            blank = residual.new_zeros(len(self.valid), residual.shape[1])
            self._replace([blank.index_copy(0, index, residual)], tier, survivors=[])
            return
        deeper = old if len(old) == HISTORY else [*old, old[-1]]
        shifted = [residual, *(tensor.index_select(0, index) for tensor in deeper[:-1])]
        merged = [a.index_copy(0, index, b) for a, b in zip(deeper, shifted, strict=True)]
        self._replace(merged, tier, survivors=[])

    def _replace(self, fresh: Sequence[Tensor], tier: Tier, *, survivors: list[int]) -> None:
        """Store new slots, newest first, in front of those that survive."""
        for generation in self._generations:
            if generation not in survivors:
                self._cache.discard(EntryKey(*self._name, generation))
        added: list[int] = []
        for slot in fresh:
            if not self._keep(slot, tier, survivors, place=len(added)):
                break
            added.append(self._next)
            self._next += 1
        self._generations = [*added, *survivors]

    def _keep(self, slot: Tensor, tier: Tier, older: list[int], *, place: int) -> bool:
        """Store a slot; older ones make room for it.

        Without its newest residual a history would extrapolate from the wrong point.
        """
        key = EntryKey(*self._name, self._next)
        while not self._cache.put(key, slot, tier, self._outlook(place)):
            if not older:
                return False
            self._cache.discard(EntryKey(*self._name, older.pop()))
        return True

    def _fetch(self, count: int) -> list[Tensor]:
        """Return the newest residuals, up to the first that is no longer cached."""
        found = []
        for place, generation in enumerate(self._generations[:count]):
            tensor = self._cache.get(EntryKey(*self._name, generation), self._outlook(place))
            if tensor is None:
                break
            found.append(tensor)
        return found

    def _trim(self) -> None:
        """Forget the residuals that nothing reads after this step."""
        if self._uses is None:
            return
        kept = int((self._uses[self._step] < NEVER).sum())
        for generation in self._generations[kept:]:
            self._cache.discard(EntryKey(*self._name, generation))
        del self._generations[kept:]
        np.minimum(self.valid, kept, out=self.valid)

    def _outlook(self, place: int) -> Outlook | None:
        """Tell the cache when a place is read next; online, that the site is visited every step."""
        if self._uses is None and not self._cache.slower:
            return None
        now = self._step * self._places + self._place
        # Without an older residual a forecast has a lower order, without the newest there is none.
        weight = 1 / (1 + place)
        if self._uses is None:
            return Outlook(now, now + self._places, self._habit.chance * weight)
        step = int(self._uses[self._step, place])
        coming = NEVER if step == NEVER else step * self._places + self._place
        return Outlook(now, coming, weight)
