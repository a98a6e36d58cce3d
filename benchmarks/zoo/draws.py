"""Inputs for tiny models, drawn row by row: a row is the same alone and in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draw:
    """Draws tensors whose first dimension is the rows; equal seeds give equal rows.

    Args:
        seeds: One per row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.rows = len(seeds)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers: (rows, *shape)."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw integers below a bound: (rows, *shape)."""
        return torch.stack([torch.randint(0, high, shape, generator=g) for g in self._generators])

    def full(self, value: float, *shape: int) -> Tensor:
        """Repeat a number: (rows, *shape)."""
        return torch.full((self.rows, *shape), value)


def grid(*sizes: int, axes: int) -> Tensor:
    """Number the places of a grid along its axes, the last ones: (tokens, axes)."""
    places = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).float()
    places = places.reshape(-1, len(sizes))
    return torch.cat([torch.zeros(len(places), axes - len(sizes)), places], dim=1)
