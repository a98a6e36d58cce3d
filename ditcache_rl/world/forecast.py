"""A learned forecast of how much of the rest of an image there will be time for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control.network import HostNetwork
from ditcache_rl.types import Floats
from ditcache_rl.world.moment import Moment, observation

#: What is forecast: how many of the steps from here on can be computed in time, with this
#: probability of fewer.
QUANTILES = (0.2, 0.5)
#: Shares of steps that would fit are clipped to these: beyond them nothing is decided otherwise.
LEAST, MOST = -0.2, 1.02


def readings(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add to observations what would fit if the speed stayed, which a forecast corrects.

    Args:
        seen: (rows, NAMES).

    Returns:
        (rows, NAMES + QUANTILES), the last ones alike.
    """
    stays = np.minimum(np.maximum(seen[:, :1], LEAST), MOST)
    return np.concatenate([seen, *[stays] * len(QUANTILES)], axis=1)


class Forecast(NamedTuple):
    """Tells how many more steps can be computed in time."""

    network: HostNetwork
    """(rows, NAMES + QUANTILES) readings to (rows, QUANTILES) shares of the steps that are left."""

    def __call__(self, moment: Moment) -> Floats:
        """Return how many of the steps from this one on fit: (rows, QUANTILES)."""
        return self.of(observation(moment), moment.steps - moment.step)

    def of(self, seen: NDArray[np.float32], ahead: int) -> Floats:
        """Return it for (rows, NAMES) observations, with so many steps left."""
        return self.network(readings(seen)).astype(np.float64) * ahead
