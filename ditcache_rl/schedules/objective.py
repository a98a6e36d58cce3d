"""How PSNR and SSIM are weighed against each other, and time against both."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np

from ditcache_rl.config import RewardConfig
from ditcache_rl.schedules.cost import CostModel
from ditcache_rl.schedules.table import ScheduleTable
from ditcache_rl.types import Floats

ValueT = TypeVar("ValueT", float, Floats)


class Objective(NamedTuple):
    """Quality is `psnr * PSNR / 10 + ssim * SSIM`."""

    psnr: float = 1.0
    ssim: float = 1.0

    @classmethod
    def of(cls, reward: RewardConfig) -> Objective:
        """Return what an environment asks for."""
        return cls(reward.psnr, reward.ssim)

    def quality(self, psnr_db: ValueT, ssim: ValueT) -> ValueT:
        """Return what PSNR in dB and SSIM are worth together."""
        return self.psnr * psnr_db / 10 + self.ssim * ssim

    def best_tradeoff(self, table: ScheduleTable, cost: CostModel, latency_weight: float) -> int:
        """Return the site computes of the schedule that is worth most at a weight on latency.

        Of a table that was never scored, the line in the middle.
        """
        scored = table.scored()
        if scored is None:
            return list(table)[len(table) // 2]
        computes = np.array(list(scored))
        psnr_db, ssim = np.array([one[1:3] for one in scored.values()]).T
        times = np.array([cost.with_computes(int(count)) for count in computes]) / cost.reference_s
        return int(computes[np.argmax(self.quality(psnr_db, ssim) - latency_weight * times)])
