"""Sensitivity by injection: reuse one site at one step, and look at the final image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.sensitivity.listen import CaseT, Sampler, batches
from ditcache_rl.types import Floats, Mode


def injection_sensitivity(
    sampler: Sampler[CaseT],
    cases: Sequence[CaseT],
    *,
    mode: Mode = Mode.REUSE,
    rows: int = 32,
    on_rows: Callable[[int], None] | None = None,
) -> Floats:
    """Measure the mean squared error of the image for one site at one step, all else computed.

    It is what the other measures estimate, and the dearest: an image per site, step and case.

    Args:
        sampler: Pipeline, steps and sites.
        cases: What to draw.
        mode: What stands in for the residual.
        rows: Most images per call.
        on_rows: Hears how many images were drawn.

    Returns:
        (cases, steps, sites) in squared units of pixels in [0, 1]; nan at the first step, which has
        nothing to reuse.
    """
    shape = sampler.steps, sampler.sites
    cells = [(step, site) for step in range(1, sampler.steps) for site in range(sampler.sites)]
    found = np.full((len(cases), *shape), np.nan)
    for number, case in enumerate(cases):
        reference = sampler.draw([case])
        for part in batches(cells, rows):
            table = np.zeros((sampler.steps, len(part), sampler.sites), dtype=np.int8)
            for row, (step, site) in enumerate(part):
                table[step, row, site] = mode
            images = _draw_under(sampler, StaticSchedule(table), [case] * len(part))
            errors = (images.double() - reference.double()).square().flatten(1).mean(1)
            found[number][tuple(np.transpose(part))] = np.asarray(errors)
            if on_rows is not None:
                on_rows(len(part))
    return found


@torch.no_grad()
def _draw_under(sampler: Sampler[Any], schedule: StaticSchedule, cases: Sequence[Any]) -> Tensor:
    with BlockRunner(sampler.pipe, schedule, TieredCache(), sites=sampler.sites):
        return sampler.draw(cases)
