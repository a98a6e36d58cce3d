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


class Forecast(NamedTuple):
    """Tells how many more steps can be computed in time."""

    network: HostNetwork
    """(rows, NAMES) observations to (rows, QUANTILES) shares of the steps that are left."""

    def __call__(self, moment: Moment) -> Floats:
        """Return how many of the steps from this one on fit: (rows, QUANTILES)."""
        return self.of(observation(moment), moment.steps - moment.step)

    def of(self, seen: NDArray[np.float32], ahead: int) -> Floats:
        """Return it for (rows, NAMES) observations, with so many steps left."""
        return self.network(seen).astype(np.float64) * ahead
