"""Tell when what a controller remembers of a run can't be compared any more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Freshness:
    """Knows which model and which shapes the present memories are of.

    Args:
        changes: Looks at the model, closely where it is told to, and counts how often it has
            changed.
    """

    def __init__(self, changes: Callable[[bool], int]) -> None:
        self._changes = changes
        self._model: int | None = None  # of nobody yet
        self.begin()

    def begin(self) -> None:
        """Begin a run, of which nothing is remembered."""
        self._shapes: list[torch.Size | None] = []
        self._is_stale = False

    def other_model(self, *, closely: bool) -> bool:
        """Tell whether the model has changed since the last time: no entry is of use to it."""
        before, self._model = self._model, self._changes(closely)
        other = before is not None and self._model != before
        self._is_stale = self._is_stale or other
        return other

    def is_lost(self, *tensors: Tensor | None) -> bool:
        """Tell whether what a decision looks at is not comparable with the decision before."""
        before, self._shapes = self._shapes, [None if t is None else t.shape for t in tensors]
        pairs = zip(before, self._shapes, strict=False)
        stale, self._is_stale = self._is_stale, False
        return stale or any(a != b for a, b in pairs if a is not None and b is not None)

    def forget_last(self) -> None:
        """Forget the shape of the last tensor, which is there no longer."""
        self._shapes[-1] = None
