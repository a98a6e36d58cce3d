"""What an image will be, as seen from the middle of its denoising."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from ditcache_rl.bench import Case, draw
from ditcache_rl.pipelines import twin


class View:
    """Watches a call of a pipeline, and shows the clean image that its last step predicts.

    Latents become an image by the pipeline's own hands: a twin of it is called with a scheduler
    that hands them out in place of a step.

    Args:
        pipe: A pipeline that nothing is attached to now.
        call: Further arguments of its call.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self._pipe, self._call = twin(pipe), call
        self._last: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Note the latents before and after the last step of a scheduler."""
        self._last = None
        with _stepping(scheduler) as plain:
            signature = inspect.signature(plain)

            def step(*args: Any, **kwargs: Any) -> Any:
                moved = plain(*args, **kwargs)
                self._last = signature.bind(*args, **kwargs).arguments["sample"], moved[0]
                return moved

            scheduler.step = step
            yield

    def show(self, cases: Sequence[Case], sigma: float, sigma_next: float) -> Tensor | None:
        """Return the images that the step between two noise levels predicts.

        Returns:
            (rows, 3, H, W) float32 in [0, 1]; None before the first step.
        """
        if self._last is None:
            return None
        latents = predicted(self._pipe.scheduler, *self._last, sigma, sigma_next)
        with _stepping(self._pipe.scheduler):
            self._pipe.scheduler.step = lambda *args, **kwargs: (latents,)
            return draw(self._pipe, cases, steps=1, call=self._call).images


def predicted(
    scheduler: Any, before: Tensor, after: Tensor, sigma: float, sigma_next: float
) -> Tensor:
    """Follow the line through two latents to where there is no noise.

    Clean latents plus noise times sigma move along it, and so do those of flow matching. Where a
    scheduler keeps the variance instead, latents are divided by the share of the image first.

    Args:
        scheduler: Of the pipeline.
        before: Latents at `sigma`.
        after: Latents at `sigma_next`.
        sigma: Noise level.
        sigma_next: Noise level of the next step.
    """
    first, last = before.float(), after.float()
    if _keeps_variance(scheduler):
        first, last = first * np.hypot(1, sigma), last * np.hypot(1, sigma_next)
    clean = last - (last - first) * (sigma_next / (sigma_next - sigma))
    return clean.to(after.dtype)


def _keeps_variance(scheduler: Any) -> bool:
    noised = hasattr(scheduler, "alphas_cumprod") and float(scheduler.init_noise_sigma) == 1.0
    return noised and not scheduler.config.get("use_flow_sigmas", False)


@contextmanager
def _stepping(scheduler: Any) -> Iterator[Any]:
    """Let the step of a scheduler be replaced on the instance, and put it back."""
    own = scheduler.__dict__.get("step")
    try:
        yield scheduler.step
    finally:
        scheduler.__dict__.pop("step", None)
        if own is not None:
            scheduler.step = own
