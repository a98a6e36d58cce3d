"""Make one update of every gap: what a schedule of the whole denoiser does to the latents.

Where each step of a sampler is linear in latents and output, and every output that is left out is a
weighted sum of computed ones, all steps from one computed step to the next are one update,
`x' = keep * x + sum_j c_j v_j`: a linear multistep method of as many steps as are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.forecast import newton_coefficients
from ditcache_rl.schedules.maps import PatchMaps
from ditcache_rl.schedules.schedule import ComputePath, Schedule
from ditcache_rl.types import HISTORY, Floats, Mode


class Collapsed(NamedTuple):
    """A schedule as updates, one for each computed step."""

    sigmas: Floats
    """(T + 1,) noise levels of the run that was collapsed."""
    path: ComputePath
    """The K steps that compute."""
    keeps: Floats
    """(K,) what the latents are multiplied with."""
    updates: Floats
    """(K, H) what the last H outputs are multiplied with and added, newest first; those of a
    schedule are HISTORY."""
    told: Floats | None = None
    """(K,) times that the denoiser is told, over the number of those of training; None for those of
    the computed steps."""
    maps: PatchMaps | None = None
    """Matrices in the place of `keeps` and `updates`; None without."""

    @property
    def levels(self) -> Floats:
        """(K + 1,) noise levels of the computed steps, and where the run ends."""
        return self.sigmas[[*self.path, len(self.sigmas) - 1]]

    @property
    def times(self) -> Floats:
        """(K,) what a denoiser of flow matching is told, whose times are noise levels."""
        return self.levels[:-1] if self.told is None else self.told

    @property
    def by_branch(self) -> bool:
        """Whether it takes outputs by guidance branch, as its matrices do."""
        return self.maps is not None and self.maps.guidance is not None

    def advance(self, place: int, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Take the latents from one computed step to the next.

        Args:
            place: Number of the computed step.
            latents: Before it. Not modified.
            outputs: Of this computed step and those before, newest first, at most H; of the shape
                of the latents, or by branch as `maps` takes them.

        Returns:
            In float32, or in float64 if the latents are.
        """
        if self.maps is not None:
            return self.maps.advance(place, latents, outputs)
        return updated(latents, outputs, keep=self.keeps[place], factors=self.updates[place])


def updated(latents: Tensor, outputs: Iterable[Tensor], *, keep: float, factors: Floats) -> Tensor:
    """Return a share of latents and outputs, summed.

    Args:
        latents: Not modified.
        outputs: Of their shape.
        keep: What the latents are multiplied with.
        factors: What the outputs are multiplied with, in their order.

    Returns:
        In float32, or in float64 if the latents are.
    """
    dtype = torch.promote_types(latents.dtype, torch.float32)
    total = latents.to(dtype)
    if keep != 1.0:
        total = total * float(keep)
    for output, factor in zip(outputs, factors.tolist(), strict=False):
        if factor:
            total = total + output.to(dtype) * factor
    return total


def euler_steps(sigmas: Floats) -> Floats:
    """Return what steps of flow matching keep and add, as `collapse` takes it: (T, 2)."""
    return np.stack([np.ones(len(sigmas) - 1), np.diff(sigmas)], axis=1)


def collapse(schedule: Schedule, sigmas: Floats, linear: Floats) -> Collapsed:
    """Make one update of every gap.

    Args:
        schedule: Of one site, the whole denoiser. Its tiers don't matter.
        sigmas: (T + 1,) noise levels, pairwise different where a forecast uses them.
        linear: (T, 2) what each step of the sampler multiplies latents and output with.

    Raises:
        ConfigError: If there are several sites, or other numbers of steps.
    """
    if schedule.sites != 1:
        raise ConfigError(
            "expected a schedule of one site, the whole denoiser, to collapse, received "
            f"{schedule.sites} sites; search one under [cache] blocks = 'transformer'"
        )
    if not schedule.steps == len(sigmas) - 1 == len(linear):
        raise ConfigError(
            f"expected a run of the {schedule.steps} steps of the schedule, received "
            f"{len(sigmas) - 1} with {len(linear)} steps of the sampler"
        )
    path = schedule.path
    keeps, updates = np.ones(len(path)), np.zeros((len(path), HISTORY))
    outputs, place = output_coefficients(schedule, sigmas), -1
    for step, (keep, add) in enumerate(linear):
        place += step in path
        keeps[place] *= keep
        updates[place] *= keep
        updates[place] += add * outputs[step]
    return Collapsed(sigmas, path, keeps, updates)


def output_coefficients(schedule: Schedule, sigmas: Floats) -> Floats:
    """Return what every output is of the computed ones so far: (T, HISTORY), newest first.

    Args:
        schedule: Of one site.
        sigmas: (T + 1,) noise levels.
    """
    known: ComputePath = ()
    found = np.zeros((schedule.steps, HISTORY))
    for step, mode in enumerate(schedule.modes[:, 0].tolist()):
        known = (step, *known)[:HISTORY] if mode == Mode.COMPUTE else known
        own = None if schedule.coefficients is None else schedule.coefficients[step]
        if mode == Mode.COMPUTE:
            found[step, 0] = 1.0
        elif own is not None and mode >= len(known) and np.isfinite(own[0]):
            found[step, : len(known)] = own[: len(known)]
        else:
            order = min(mode, len(known)) - Mode.REUSE
            found[step] = newton_coefficients(sigmas[list(known)], float(sigmas[step]), order)
    return found
