"""What one site has computed: its last residuals, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.instrument.forecast import newton_weights, weighted_sum
from ditcache_rl.types import HISTORY, EntryKey, Floats, Mode, Tier


class SiteHistory:
    """The last residuals of one site on one branch; implements `types.History`.

    An entry is one tensor for the whole batch. Where rows compute at different steps, a slot holds
    for every row that row's k-th newest residual.
    """

    def __init__(self, cache: TieredCache, request: int, branch: int, site: int, rows: int) -> None:
        self.steps: NDArray[np.int64] = np.full((HISTORY, rows), -1, dtype=np.int64)
        self.sigmas: Floats = np.zeros((HISTORY, rows))
        self.valid: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self._cache = cache
        self._name = (request, branch, site)
        self._generations: list[int] = []
        self._next = 0

    def residuals(self) -> list[Tensor]:
        """Return the residuals that are still cached, newest first."""
        found = []
        for generation in self._generations:
            tensor = self._cache.get(EntryKey(*self._name, generation))
            if tensor is None:
                break
            found.append(tensor)
        return found

    def estimate(self, modes: NDArray[np.int8], sigma: float) -> Tensor:
        """Reuse or forecast all rows: (rows, features); computing rows get the newest residual."""
        residuals = self.residuals()
        weights = np.zeros((len(modes), HISTORY))
        weights[:, 0] = 1.0
        for row in np.flatnonzero(modes > Mode.REUSE):
            weights[row] = newton_weights(self.sigmas[:, row], sigma, int(modes[row]) - Mode.REUSE)
        return weighted_sum(residuals, weights)

    def effective(self, modes: NDArray[np.int8]) -> NDArray[np.int8]:
        """Lower the order of forecasts to what is cached; nothing cached means compute."""
        if not modes.any():
            return modes
        available = np.minimum(self.valid, len(self.residuals()))
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
        if len(rows) == len(self.valid):
            self._push(residual, tier)
        else:
            self._scatter(residual, rows, tier)
        self.steps[1:, rows] = self.steps[:-1, rows]
        self.sigmas[1:, rows] = self.sigmas[:-1, rows]
        self.steps[0, rows], self.sigmas[0, rows] = step, sigma
        self.valid[rows] += 1
        np.minimum(self.valid, len(self._generations), out=self.valid)

    def _push(self, residual: Tensor, tier: Tier) -> None:
        self._replace([residual], tier, survivors=self._generations[: HISTORY - 1])

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
        added = []
        for slot in fresh:
            if not self._keep(slot, tier, survivors):
                break
            added.append(self._next)
            self._next += 1
        self._generations = [*added, *survivors]

    def _keep(self, slot: Tensor, tier: Tier, older: list[int]) -> bool:
        """Store a slot; older ones make room for it.

        Without its newest residual a history would extrapolate from the wrong point.
        """
        key = EntryKey(*self._name, self._next)
        while not self._cache.put(key, slot, tier):
            if not older:
                return False
            self._cache.discard(EntryKey(*self._name, older.pop()))
        return True
