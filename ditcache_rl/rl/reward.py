"""The reward: latency and memory against PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Quality
from ditcache_rl.schedules import Objective
from ditcache_rl.types import Floats


class RewardTerms(NamedTuple):
    """The terms of the terminal reward, one number per row each."""

    psnr: Floats
    ssim: Floats
    latency: Floats
    memory: Floats

    @classmethod
    def joined(cls, parts: Iterable[RewardTerms]) -> RewardTerms:
        """Return those of all rows of all parts."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @property
    def total(self) -> Floats:
        """(rows,) psnr + ssim + latency + memory."""
        return self.psnr + self.ssim + self.latency + self.memory


def reward_terms(
    objective: Objective,
    quality: Quality,
    *,
    time_share: Floats,
    latency_weight: Floats,
    memory: Floats | None = None,
) -> RewardTerms:
    """Weigh quality and time: `psnr * PSNR / 10 + ssim * SSIM - latency_weight * t / t_reference`.

    Args:
        objective: How PSNR and SSIM are weighed.
        quality: (rows,) against the reference.
        time_share: (rows,) predicted time over that of the reference.
        latency_weight: (rows,) weight on time; 0 where computes are given, so that time is fixed.
        memory: (rows,) what device bytes are charged; None where they are free.
    """
    nothing = np.zeros_like(time_share)
    return RewardTerms(
        psnr=objective.quality(quality.psnr_db, nothing),
        ssim=objective.quality(nothing, quality.ssim),
        latency=-latency_weight * time_share,
        memory=nothing if memory is None else -memory,
    )
