"""An agent that keeps deadlines: a network that corrects what a prior would do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control.network import HostNetwork
from ditcache_rl.world.forecast import QUANTILES, Forecast
from ditcache_rl.world.moment import NAMES, Moment, familiar, observation
from ditcache_rl.world.rules import Planner
from ditcache_rl.world.simulator import psnr_of

#: Leaving a step out, and computing it.
ACTIONS = 2
#: Log-odds of what the prior does against the other action.
_PRIOR = 2.0
#: Of a compute at the present speed, what must be left to begin it: slow moments pass.
_LEAST = 0.4
#: Computes more than the lower forecast, at which an agent is told what computing now gains.
_AROUND = np.array([-1, 0, 1, 2])
#: Gains of computing now are told by their logarithm from so many dB on, up to the most: where many
#: computes fit, a tenth of a decibel decides what whole ones decide where few do.
_SMALL_DB, _MOST_DB, _WIDE = 0.1, 6.0, 3.0

#: Names of what an agent reads.
AGENT_NAMES = (
    *NAMES,
    *(f"forecast_share_{share:g}" for share in QUANTILES),  # of the steps left
    "forecast_part",  # what the lower forecast is above a whole number of computes
    "forecast_spread",  # between the two, in computes, over 2
    "forecast_count",  # the lower one in computes, over 8
    # Of computing now: asinh(dB / 0.1) / 3.
    *(f"log_gain_at_forecast_{away:+d}" for away in _AROUND),
)


@dataclass(frozen=True)
class Senses:
    """What an agent knows besides the moment, and what it was trained from.

    Attributes:
        forecast: Of how many computes fit.
        prior: Does what the agent would do untrained, and knows where computes are best.
    """

    forecast: Forecast
    prior: Planner

    def read(self, moment: Moment) -> NDArray[np.float32]:
        """Return what a network reads: (rows, AGENT_NAMES + ACTIONS).

        The last columns are the log-prior of leaving the step out and of computing it.
        """
        seen, ahead = observation(moment), moment.steps - moment.step
        low, middle = self.forecast.of(seen, ahead).T
        whole = np.floor(low)
        # One look tells what the prior does, and what computing gains at the counts around.
        left = np.empty((len(low), 1 + len(_AROUND)), dtype=np.int64)
        left[:, 0], left[:, 1:] = self.prior.left(moment), whole[:, None] + _AROUND
        now, later = self.prior.placement.ways(left, moment.older, moment.newest, moment.step)
        wanted = now[:, 0] < later[:, 0] if moment.step else np.ones(len(low), dtype=bool)
        lost = moment.lost[:, None]
        gains = psnr_of(lost + now[:, 1:]) - psnr_of(lost + later[:, 1:])
        gains = np.arcsinh(np.minimum(np.maximum(gains, -_MOST_DB), _MOST_DB) / _SMALL_DB) / _WIDE
        own = (low / ahead, middle / ahead, low - whole, (middle - low) / 2, low / 8)
        read = np.empty((len(low), len(AGENT_NAMES) + ACTIONS), dtype=np.float32)
        read[:, : len(NAMES)] = seen
        for place, column in enumerate(own, len(NAMES)):
            read[:, place] = column
        read[:, -ACTIONS - len(_AROUND) : -ACTIONS] = gains
        read[:, -2], read[:, -1] = _PRIOR * ~wanted, _PRIOR * wanted
        return read


def allowed(moment: Moment) -> NDArray[np.bool_]:
    """Return whether leaving the step out and computing it are allowed: (rows, 2).

    The first step is computed; one that can't be in time any more is not.
    """
    masks = np.empty((len(moment.left), ACTIONS), dtype=bool)
    masks[:, 0] = moment.step > 0
    masks[:, 1] = (moment.left >= moment.slowdown[:, 0] * _LEAST) | (moment.step == 0)
    return masks


@dataclass(frozen=True)
class Agent:
    """Do what a network thinks best.

    Attributes:
        network: (rows, AGENT_NAMES + ACTIONS) to (rows, ACTIONS) logits.
        senses: What it reads with.
        caution: Log-odds that are taken off computing; above zero more images are in time.
        longest: Most time that it was trained with, as in `familiar`.
        slowest: Largest slowdown, likewise.
    """

    network: HostNetwork
    senses: Senses
    caution: float = 0.0
    longest: float = np.inf
    slowest: float = np.inf

    def __call__(self, moment: Moment) -> NDArray[np.bool_]:
        """Tell which rows compute: (rows,)."""
        moment = familiar(moment, longest=self.longest, slowest=self.slowest)
        skip, compute = allowed(moment).T
        logits = self.network(self.senses.read(moment))
        return np.asarray(compute & (~skip | (logits[:, 1] - self.caution > logits[:, 0])))
