"""What prompts reach under a schedule, from the worst one to the best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Floats

#: Parts that prompts are told in: of a hundredth of them each.
PARTS = 100


class Reached(NamedTuple):
    """Percentiles over prompts, from 0 to 100 in `PARTS` parts: they never fall."""

    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]

    @classmethod
    def of(cls, psnr_db: Floats, ssim: Floats) -> Reached:
        """Summarise what was measured: one number per prompt each."""
        grid = np.linspace(0, 100, PARTS + 1)
        return cls(*(tuple(np.percentile(v, grid).tolist()) for v in (psnr_db, ssim)))

    @classmethod
    def read(cls, percentiles: Floats) -> Reached | None:
        """Read (2, PARTS + 1) percentiles; None where all of them are nan.

        Raises:
            ConfigError: If they fall, or some are not finite.
        """
        if np.isnan(percentiles).all():
            return None
        if not (np.isfinite(percentiles).all() and (np.diff(percentiles) >= 0).all()):
            raise ConfigError(
                "expected reached to have finite percentiles that never fall, received others"
            )
        return cls(*(tuple(own) for own in percentiles.tolist()))

    @property
    def mean_psnr_db(self) -> float:
        """Mean over prompts: linear between percentiles."""
        return float(np.trapezoid(self.psnr_db)) / PARTS


def share_above(percentiles: tuple[float, ...], floor: float) -> float:
    """Tell which share of the prompts reaches a floor, linear between percentiles."""
    above = int(np.searchsorted(percentiles, floor))
    if above in (0, len(percentiles)):
        return float(above == 0)
    low, high = percentiles[above - 1 : above + 1]
    return 1 - (above - 1 + (floor - low) / (high - low)) / PARTS
