"""Tell runs, steps and noise levels of a request from the scheduler alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Reading(NamedTuple):
    """What a clock says of a call."""

    step: int
    began: bool
    """A run begins with this call."""


class Clock:
    """Reads the position of a scheduler, and tells when its loop begins, and begins again.

    Schedulers with a `step_index` are asked for it. The others (DDIM, DDPM, PNDM) have none: there
    the timestep that the denoiser was given is looked up, at the cost of a host sync per call.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._noted = self._place()
        self._started = False
        self._timesteps: Any = None
        self._config: Any = None
        self._last: float | None = None
        self._step = -1
        self._calls = self._calls_before = 0
        self._begin()

    def started(self) -> bool:
        """Tell whether a loop has begun since this clock was made.

        It has when timesteps were set, or when the scheduler has moved on those of before.
        """
        if not self._started:
            (noted, *before), (timesteps, *now) = self._noted, self._place()
            self._started = timesteps is not noted or before != now
        return self._started

    def read(self, timestep: Any) -> Reading:
        """Return the step of a call, and whether a run begins with it.

        One begins when timesteps are set, be they the same, and when the step goes back. A pipeline
        that saves and restores the state of its scheduler for each part of an image brings copies
        of all that it holds; setting timesteps replaces no more than those.

        Args:
            timestep: What the denoiser was given.
        """
        timesteps, config = self._scheduler.timesteps, getattr(self._scheduler, "config", None)
        other = timesteps is not self._timesteps
        began = self._timesteps is None or (other and not _equal(timesteps, self._timesteps))
        # Made anew at every look, their identity says nothing.
        were_set = other and config is self._config and self._scheduler.timesteps is timesteps
        self._timesteps, self._config = timesteps, config
        if began:
            self._begin()
        value, step = self._position(timestep)
        if not began:
            # Equal ones that take over in the middle of a loop were only moved or rewritten.
            began = step != self._step + 1 if were_set else step < self._step
            if began:
                self._begin()
                value, step = self._position(timestep)
        if step != self._step:
            self._calls_before, self._calls = self._calls, 0
        self._last, self._step, self._calls = value, step, self._calls + 1
        return Reading(step, began)

    @property
    def steps(self) -> int:
        """Denoiser steps of the whole schedule; those of second order count twice."""
        return len(self._scheduler.timesteps)

    def _place(self) -> tuple[Any, Any, Any]:
        names = ("timesteps", "step_index", "begin_index")
        timesteps, step, begin = (getattr(self._scheduler, name, None) for name in names)
        return timesteps, step, begin

    def _begin(self) -> None:
        """Forget where the loop was."""
        self._values: list[float] = []
        self._step, self._last = -1, None
        self._calls = self._calls_before = 0
        self._form: int | None = None

    def _position(self, timestep: Any) -> tuple[float | None, int]:
        """Return the timestep, where it is what tells the step, and the step."""
        index = getattr(self._scheduler, "step_index", None)
        if index is None and hasattr(self._scheduler, "step_index"):
            index = getattr(self._scheduler, "begin_index", None) or 0
        if index is not None:
            return None, int(index)
        value = _first_value(timestep)
        return value, self._look_up(value)

    def _look_up(self, value: float | None) -> int:
        if not self._values:
            self._values = [float(t) for t in self._scheduler.timesteps]
        # Every branch that calls now has called at this step already: it is the next one.
        again = self._calls >= self._calls_before > 0 and self._repeats()
        if value == self._last and not again:
            return max(self._step, 0)
        if value is None:
            return self._step + 1
        ahead = self._find(value, self._step + 1)  # PNDM has some of them twice
        found = self._find(value, 0) if ahead is None else ahead
        return self._step + 1 if found is None else found

    def _find(self, value: float, start: int) -> int | None:
        """Look a timestep up from a step on.

        How the pipeline scales it is settled by its first call, which is the earliest of all.
        """
        found = {}
        for form in range(len(_FORMS)) if self._form is None else (self._form,):
            plain = _FORMS[form](value)
            for index in range(start, len(self._values)):
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
