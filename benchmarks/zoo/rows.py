"""A row's image depends on its own prompt, seed and decisions: two laws, each with its reason.

A matrix product sums a batch in another order than a row, and which order depends on the size of
the batch: the uncached pipeline itself draws a row a little differently at every size. Under a
schedule per row, the rows that compute run as a batch of their own. So a row can be bit-identical
to the same row alone only as far as the uncached pipeline is. What can be asked for instead:

- In float64 it is the row alone, up to rounding. What leaked from another row would stay.
- Whatever the other rows hold, its bits are the same.

How far it is from the row alone in float32, over what rows of the uncached pipeline are, is a
figure and no law: a few roundings are compared with a few others, and processors round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.zoo.doubled import doubled
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.types import Mode

#: Rows of a batch and their schedules, in the checks of every model.
SEEDS = (4, 5, 6)
TABLES = ((0, 1, 0, 2, 0, 1), (0, 0, 1, 1, 0, 2), (0, 0, 0, 0, 0, 0))
#: Largest difference in float64, relative to the largest latent. Its rounding is 1e-16; guidance,
#: forecasts and samplers multiply it, and a wrong row is of order 1.
ROUNDING = 1e-10
#: From a seed to that of another row.
_OTHER = 100


class Unit(NamedTuple):
    """Something that can be run: a denoiser in a loop, or a whole pipeline.

    Attributes:
        pipe: What is attached.
        draw: Runs it, or a copy: `draw(seeds, large, copy, **more)` returns the latents of every
            row; more are further arguments of the call.
        rows: It can draw several samples in one call.
    """

    pipe: Any
    draw: Callable[..., Tensor]
    rows: bool = True


class PerRow:
    """A schedule per row, stretched to the steps of the request."""

    probe_blocks = 0

    def __init__(self, tables: Sequence[Sequence[int]]) -> None:
        self._tables = tables

    def reset(self, run: Any) -> None:
        """Stretch the tables."""
        tables = np.array(self._tables, dtype=np.int8)
        count = run.num_inference_steps
        picked = tables[:, np.arange(count) * tables.shape[1] // count]
        picked[:, 0] = Mode.COMPUTE
        rows = np.resize(np.arange(len(tables)), run.rows)
        self.modes = np.repeat(picked[rows].T[:, :, None], run.sites, axis=2)
        self._inner = StaticSchedule.of(self.modes)
        self._inner.reset(run)

    def decide(self, info: Any) -> Any:
        """Follow the tables."""
        return self._inner.decide(info)


class RowGaps(NamedTuple):
    """How far rows drawn in a batch are from the same rows drawn alone."""

    largest: float
    """Largest difference of the cached pipeline over that of the uncached one."""
    mean: float
    """The same of their root mean squares: the largest is a matter of luck, this one is not."""


def row_gaps(
    unit: Unit, seeds: Sequence[int] = SEEDS, tables: Sequence[Sequence[int]] = TABLES
) -> RowGaps:
    """Compare rows in a batch with the same rows alone, cached and uncached.

    Over the steps of a cached batch every size up to its own may occur. The uncached pipeline's
    difference is therefore that of all these sizes, and of every row in each of them. Where it is
    smaller than one rounding of the latents, that rounding is taken.

    Args:
        unit: What draws; it must take several rows.
        seeds: One per row.
        tables: Modes of each row, stretched to the steps.
    """
    alone = torch.cat([unit.draw([seed], False) for seed in seeds])
    plain = [alone * torch.finfo(alone.dtype).eps]
    for size in range(2, len(seeds) + 1):
        for start in {min(start, len(seeds) - size) for start in range(0, len(seeds), size)}:
            rows = slice(start, start + size)
            plain.append(unit.draw(seeds[rows], False) - alone[rows])
    cached = _together(unit, seeds, tables) - _single(unit, seeds, tables)
    return RowGaps(
        float(cached.abs().max() / max(gap.abs().max() for gap in plain)),
        float(_mean(cached) / max(_mean(gap) for gap in plain)),
    )


def rounding(
    unit: Unit, seeds: Sequence[int] = SEEDS, tables: Sequence[Sequence[int]] = TABLES
) -> float:
    """Return how far rows in a batch are from the rows alone in float64, over the largest latent.

    Args:
        unit: What draws; it must take several rows.
        seeds: One per row.
        tables: Modes of each row.
    """
    with doubled(unit.pipe):
        single = _single(unit, seeds, tables)
        gap = _together(unit, seeds, tables) - single
        return float(gap.abs().max() / single.abs().max())


def blind(unit: Unit, seeds: Sequence[int] = SEEDS) -> bool:
    """Tell whether a row has the same bits whatever the other rows hold.

    True also where the uncached pipeline is not blind itself: a mixture of experts gathers the
    tokens of all rows, so that their number, and with it the order of sums, depends on all rows.
    """
    first, *others = seeds
    swapped = [[first, *(seed + _OTHER for seed in others)], [first + _OTHER, *others]]
    if _same(*[_together(unit, rows, TABLES) for rows in (seeds, *swapped)]):
        return True
    return not _same(*[unit.draw(rows, False) for rows in (seeds, *swapped)])


def _same(drawn: Tensor, first_kept: Tensor, others_kept: Tensor) -> bool:
    return torch.equal(drawn[:1], first_kept[:1]) and torch.equal(drawn[1:], others_kept[1:])


def _together(unit: Unit, seeds: Sequence[int], tables: Sequence[Sequence[int]]) -> Tensor:
    with BlockRunner(unit.pipe, PerRow(tables), TieredCache()):
        return unit.draw(seeds, False)


def _single(unit: Unit, seeds: Sequence[int], tables: Sequence[Sequence[int]]) -> Tensor:
    pairs = zip(seeds, tables, strict=True)
    return torch.cat([_together(unit, [seed], [table]) for seed, table in pairs])


def _mean(gap: Tensor) -> Tensor:
    return gap.double().square().mean().sqrt()
