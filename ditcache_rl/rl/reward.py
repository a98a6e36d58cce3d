"""The reward: latency against PSNR and SSIM."""

from __future__ import annotations

from typing import NamedTuple

from ditcache_rl.config import RewardConfig
from ditcache_rl.types import Floats


class RewardTerms(NamedTuple):
    """The terms of the terminal reward, one number per row each."""

    psnr: Floats
    ssim: Floats
    latency: Floats

    @property
    def total(self) -> Floats:
        """(rows,) psnr + ssim + latency."""
        return self.psnr + self.ssim + self.latency


def reward_terms(
    config: RewardConfig,
    *,
    psnr_db: Floats,
    ssim: Floats,
    time_share: Floats,
    latency_weight: Floats,
) -> RewardTerms:
    """Weigh quality and time: `w_psnr * PSNR / 10 + w_ssim * SSIM - w_latency * t / t_reference`.

    Args:
        config: Weights of the qualities.
        psnr_db: (rows,) against the reference.
        ssim: (rows,) against the reference.
        time_share: (rows,) predicted time over that of the reference.
        latency_weight: (rows,) weight on time; 0 under a budget, where time is fixed.
    """
    return RewardTerms(
        psnr=config.psnr * psnr_db / 10,
        ssim=config.ssim * ssim,
        latency=-latency_weight * time_share,
    )
