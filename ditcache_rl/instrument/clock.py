"""Tell the step of a denoiser call and the noise levels of a request, from the scheduler alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import Floats

#: Timesteps are handed to a denoiser as they are, or scaled and turned around by the pipeline.
_FORMS: tuple[Callable[[float], float], ...] = (
    lambda t: t,
    lambda t: t * 1000.0,
    lambda t: (1.0 - t) * 1000.0,
)


class Clock:
    """Reads the position of a scheduler.

    Schedulers with a `step_index` are asked for it. The others (DDIM, DDPM, PNDM) have none: there
    the timestep that the denoiser was given is looked up, at the cost of a host sync per call.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._timesteps: Any = None
        self._values: list[float] = []
        self._step = -1
        self._last: float | None = None
        self._form: int | None = None

    def restarted(self) -> bool:
        """Tell whether the scheduler was given other timesteps than at the last call."""
        timesteps = self._scheduler.timesteps
        if timesteps is self._timesteps:
            return False
        same = self._timesteps is not None and _equal(timesteps, self._timesteps)
        self._timesteps = timesteps
        if not same:
            self._values, self._step, self._last, self._form = [], -1, None, None
        return not same

    @property
    def steps(self) -> int:
        """Denoiser steps of the whole schedule; those of second order count twice."""
        return len(self._scheduler.timesteps)

    def step(self, timestep: Any, again: bool) -> int:
        """Return the present step.

        Args:
            timestep: What the denoiser was given.
            again: Every branch that calls now has called at the last step already.
        """
        index = getattr(self._scheduler, "step_index", None)
        if index is not None:
            return int(index)
        if hasattr(self._scheduler, "step_index"):
            return int(getattr(self._scheduler, "begin_index", None) or 0)
        return self._look_up(_first_value(timestep), again)

    def _look_up(self, value: float | None, again: bool) -> int:
        if not self._values:
            self._values = [float(t) for t in self._scheduler.timesteps]
        if value == self._last and not (again and self._repeats()):
            return max(self._step, 0)
        self._last = value
        found = None if value is None else self._find(value)
        self._step = self._step + 1 if found is None else found
        return self._step

    def _find(self, value: float) -> int | None:
        """Look a timestep up behind the present step, as PNDM has some of them twice.

        How the pipeline scales it is settled by its first call, which is the earliest of all.
        """
        found = {}
        for form in range(len(_FORMS)) if self._form is None else (self._form,):
            plain = _FORMS[form](value)
            for index in range(self._step + 1, len(self._values)):
                if abs(self._values[index] - plain) <= 1e-3:  # float32 of numbers up to 1000
                    found[form] = index
                    break
        if not found:
            return None
        self._form = min(found, key=lambda form: found[form])
        return found[self._form]

    def _repeats(self) -> bool:
        after = self._step + 1
        return after < len(self._values) and self._values[after] == self._values[self._step]

    def sigmas(self) -> Floats:
        """Return the noise levels: (steps + 1,), pairwise different."""
        return distinct(noise_levels(self._scheduler))


def noise_levels(scheduler: Any) -> Floats:
    """Read or work out the noise level of every step, and where the sampler ends."""
    count = len(scheduler.timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= count:
        levels = np.asarray(torch.as_tensor(sigmas).detach().cpu(), dtype=np.float64)[: count + 1]
    else:
        timesteps = np.asarray(torch.as_tensor(scheduler.timesteps).detach().cpu(), np.float64)
        products = getattr(scheduler, "alphas_cumprod", None)
        if products is None:
            levels = timesteps / max(1.0, float(timesteps.max()))
        else:
            kept = np.asarray(products.cpu(), dtype=np.float64)
            kept = kept[np.clip(timesteps.astype(np.int64), 0, len(kept) - 1)]
            levels = np.sqrt((1 - kept) / kept)
    return levels if len(levels) == count + 1 else np.append(levels, 0.0)


def distinct(levels: Floats) -> Floats:
    """Spread equal neighbours towards the level that follows.

    A second-order sampler visits a level twice; a forecast between equal levels would divide by 0.
    """
    spread, start = levels.copy(), 0
    while start < len(levels):
        stop = start + 1
        while stop < len(levels) and levels[stop] == levels[start]:
            stop += 1
        if stop - start > 1:
            before = levels[start - 1] - levels[start] if start else 1.0
            goal = levels[stop] if stop < len(levels) else levels[start] - abs(before)
            spread[start:stop] += (goal - levels[start]) * np.arange(stop - start) / (stop - start)
        start = stop
    return spread


def _first_value(timestep: Any) -> float | None:
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0]) if timestep.numel() else None
    return float(timestep) if isinstance(timestep, int | float) else None


def _equal(one: Any, other: Any) -> bool:
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.shape == other.shape and bool((one == other.to(one.device)).all())
