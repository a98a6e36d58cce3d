"""Sensitivity by gradients: how far a stale residual would move the image, to first order.

A site that reuses the residual r' of the step before in place of its own r moves the image by
J (r' - r), J being the Jacobian of everything that follows. Its mean square over the pixels is the
expectation of (v J (r' - r))^2 over random images v of unit variance per pixel, and one backward
pass gives v J for all sites and steps at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint

from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.sensitivity.listen import (
    CaseT,
    Sampler,
    SiteListener,
    Visit,
    batches,
    count_sites,
    per_row,
    residual_of,
)
from ditcache_rl.types import Floats


def gradient_sensitivity(
    sampler: Sampler[CaseT],
    cases: Sequence[CaseT],
    *,
    sublayers: bool = False,
    probes: int = 4,
    rows: int = 8,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> Floats:
    """Estimate the mean squared error of the image for reuse of one site at one step.

    The backward pass goes through the rest of the trajectory and recomputes each step, so that it
    holds the activations of one step at a time.

    Args:
        sampler: Pipeline, steps and sites.
        cases: What to draw.
        sublayers: Sites are the attentions and feed-forwards of all blocks.
        probes: Random images per case. The estimate of one is off by a factor of a few; 16 rank
            the cells of one image of `shapes` as injection does (.96), 4 less so (.82), but many
            images with few probes each tell more than few with many.
        rows: Most images per call.
        seed: Of the random images.
        on_rows: Hears how many images went forth and back.

    Returns:
        (cases, steps, sites) in squared units of pixels in [0, 1]; nan at the first step, which has
        nothing to reuse.

    Raises:
        UnsupportedModelError: If weights are quantized, before anything is drawn; or if the
            pipeline lets no gradient through.
    """
    _refuse_quantized(sampler.pipe)
    sites = count_sites(sampler, sublayers=sublayers)
    generator = torch.Generator().manual_seed(seed)
    tasks = [case for case in cases for _ in range(probes)]
    parts = []
    with _differentiable(sampler.pipe):
        for part in batches(tasks, rows):
            slopes = _Slopes(sampler.pipe, sites, sublayers=sublayers)
            with slopes:  # the backward pass runs the steps again, and must meet the same hooks
                with torch.enable_grad():
                    images = sampler.draw(part).images
                    direction = torch.randn(images.shape, generator=generator)
                    score = (images * direction).sum() / images[0].numel() ** 0.5
                parts.append(slopes.moved(score, len(part), sampler.steps))
            if on_rows is not None:
                on_rows(len(part))
    moved = np.concatenate(parts).reshape(len(cases), probes, sampler.steps, sites)
    return np.asarray((moved**2).mean(axis=1))


class _Slopes(SiteListener):
    """Adds a zero to every stream that a span gives out, to ask for gradients there."""

    def __init__(self, pipe: Any, sites: int, *, sublayers: bool) -> None:
        super().__init__(pipe, sites, sublayers=sublayers)
        self._pipe, self._site_count = pipe, sites
        self._zeros: dict[Visit, list[Tensor]] = {}
        self._residuals: dict[Visit, list[Tensor]] = {}

    def around(
        self, place: tuple[int, int], plain: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Keep no activations of the call; the backward pass makes them again."""
        return checkpoint(self.run, place, plain, args, kwargs, use_reentrant=False)

    def leave(self, visit: Visit, starts: Sequence[Any], ends: Sequence[Any]) -> Sequence[Any]:
        """Note the residual, and add the zeros."""
        if visit not in self._zeros:  # else this is the backward pass
            self._residuals[visit] = residual_of(starts, ends)
            self._zeros[visit] = [
                torch.zeros_like(end).requires_grad_() for end in ends if isinstance(end, Tensor)
            ]
        zeros = iter(self._zeros[visit])
        return [end + next(zeros) if isinstance(end, Tensor) else end for end in ends]

    def moved(self, score: Tensor, rows: int, steps: int) -> Floats:
        """Return what reuse would add to a score of the images: (rows, steps, sites)."""
        leaves = [zero for zeros in self._zeros.values() for zero in zeros]
        try:
            found = iter(torch.autograd.grad(score, leaves, allow_unused=True))
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"expected {type(self._pipe).__name__} to let gradients through, received: "
                f"{error}; measure by attention or injection"
            ) from error
        slopes = {visit: [next(found, None) for _ in zeros] for visit, zeros in self._zeros.items()}
        moved = np.full((rows, steps, self._site_count), np.nan)
        for visit, now, before in _pairs_with_before(self._residuals):
            cell = moved[:, visit.step, visit.site]
            np.nan_to_num(cell, copy=False)
            for slope, new, old in zip(slopes[visit], now, before, strict=True):
                if slope is not None:
                    cell += per_row((slope * (old - new)).flatten(1).sum(1), rows)
        return moved


def _pairs_with_before(
    visits: Mapping[Visit, Sequence[Tensor]],
) -> list[tuple[Visit, Sequence[Tensor], Sequence[Tensor]]]:
    """Pair what every visit holds with what the same span held one step before."""
    return [
        (visit, held, visits[before])
        for visit, held in visits.items()
        if (before := visit._replace(step=visit.step - 1)) in visits
    ]


def _refuse_quantized(pipe: Any) -> None:
    """Refuse weights that may stop some gradients without a word, and leave the others."""
    for part, denoiser in denoisers_of(pipe).items():
        for name, weight in denoiser.named_parameters():
            if is_traceable_wrapper_subclass(weight) or not weight.is_floating_point():
                raise UnsupportedModelError(
                    f"expected plain floating-point weights to take gradients through, received "
                    f"{type(weight).__name__} at {part}.{name}; measure by attention or injection"
                )


@contextmanager
def _differentiable(pipe: Any) -> Iterator[None]:
    """Let gradients through the call of a pipeline, but not into its weights."""
    plain = type(pipe)
    weights = [
        weight
        for part in pipe.components.values()
        if isinstance(part, nn.Module)
        for weight in part.parameters()
        if weight.requires_grad
    ]
    like = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    body = {"__call__": inspect.unwrap(plain.__call__), **like}
    try:
        for weight in weights:
            weight.requires_grad_(False)
        pipe.__class__ = type(plain.__name__, (plain,), body)
        yield
    finally:
        pipe.__class__ = plain
        for weight in weights:
            weight.requires_grad_(True)
