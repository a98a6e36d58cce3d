"""Sensitivity by injection: reuse one site at one step, and look at the final image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.sensitivity.listen import (
    CaseT,
    Sampler,
    SiteListener,
    Visit,
    batches,
    count_sites,
    residual_of,
)
from ditcache_rl.types import Floats


@torch.no_grad()
def injection_sensitivity(
    sampler: Sampler[CaseT],
    cases: Sequence[CaseT],
    *,
    sublayers: bool = False,
    rows: int = 32,
    on_rows: Callable[[int], None] | None = None,
) -> Floats:
    """Measure the mean squared error of the image for one site at one step, all else computed.

    It is what the other measures estimate, and the dearest: an image per site, step and case.

    Args:
        sampler: Pipeline, steps and sites.
        cases: What to draw.
        sublayers: Sites are the attentions and feed-forwards of all blocks.
        rows: Most images per call.
        on_rows: Hears how many images were drawn.

    Returns:
        (cases, steps, sites) in squared units of pixels in [0, 1]; nan at the first step, which has
        nothing to reuse.
    """
    sites = count_sites(sampler, sublayers=sublayers)
    cells = [(step, site) for step in range(1, sampler.steps) for site in range(sites)]
    found = np.full((len(cases), sampler.steps, sites), np.nan)
    for number, case in enumerate(cases):
        reference = sampler.draw([case]).images
        for part in batches(cells, rows):
            with _Injection(sampler.pipe, sites, part, sublayers=sublayers):
                images = sampler.draw([case] * len(part)).images
            errors = (images.double() - reference.double()).square().flatten(1).mean(1)
            found[number][tuple(np.transpose(part))] = np.asarray(errors)
            if on_rows is not None:
                on_rows(len(part))
    return found


class _Injection(SiteListener):
    """Hands out the residual of the step before: in every row at a step and site of its own."""

    def __init__(
        self, pipe: Any, sites: int, cells: Sequence[tuple[int, int]], *, sublayers: bool
    ) -> None:
        super().__init__(pipe, sites, sublayers=sublayers)
        self._cells = {cell: row for row, cell in enumerate(cells)}
        self._kept: dict[Visit, list[Tensor]] = {}

    def leave(
        self, visit: Visit, starts: Sequence[Any], ends: Sequence[Any]
    ) -> Sequence[Any] | None:
        """Replace what one row gives out, on all of its guidance branches."""
        place = visit._replace(step=0)
        before, self._kept[place] = self._kept.get(place), residual_of(starts, ends)
        row = self._cells.get((visit.step, visit.site))
        if row is None or before is None:
            return None
        changed = []
        for end, stale in zip(ends, _with_residual(starts, ends, before), strict=True):
            if isinstance(end, Tensor):
                end = end.clone()
                end[row :: len(self._cells)] = stale[row :: len(self._cells)]
            changed.append(end)
        return changed


def _with_residual(
    starts: Sequence[Any], ends: Sequence[Any], residual: Sequence[Tensor]
) -> list[Any]:
    """Return the streams that a span would give out with a residual that `residual_of` returned."""
    kept = iter(residual)
    return [
        _add(start, next(kept)) if isinstance(end, Tensor) else end
        for start, end in zip(starts, ends, strict=True)
    ]


def _add(start: Any, residual: Tensor) -> Tensor:
    same = getattr(start, "shape", None) == residual.shape
    return start + residual if same else residual
