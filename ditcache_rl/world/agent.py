"""An agent that keeps deadlines: a network that corrects what a prior would do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control.network import HostNetwork
from ditcache_rl.world.moment import Moment, familiar, observation
from ditcache_rl.world.simulator import Decide

#: Leaving a step out, and computing it.
ACTIONS = 2
#: Log-odds of what the prior does against the other action.
_PRIOR = 2.0
#: Of a compute at the present speed, what must be left to begin it: slow moments pass.
_LEAST = 0.4


def agent_input(
    moment: Moment, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return what a network sees and what it may do: (rows, NAMES + 2), (rows, 2).

    The last two columns are the log-prior of leaving out and of computing. The first step is
    computed; one that can't be in time any more is not.

    Args:
        moment: Now.
        wanted: (rows,) what the prior does.
    """
    seen = observation(moment)
    late = moment.left < moment.slowdown[:, 0] * _LEAST
    masks = np.stack([np.ones_like(late), ~late], axis=1)
    if moment.step == 0:
        masks[:] = [False, True]
    prior = np.stack([np.where(wanted, 0.0, _PRIOR), np.where(wanted, _PRIOR, 0.0)], axis=1)
    return np.concatenate([seen, prior.astype(np.float32)], axis=1), masks


class Agent:
    """Do what a network thinks best.

    Args:
        network: (rows, NAMES + 2) observations to (rows, 2) logits.
        prior: What it was trained from.
        caution: Log-odds that are taken off computing; above zero more images are in time.
        longest: Most time that it was trained with, as in `familiar`.
        slowest: Largest slowdown, likewise.
    """

    def __init__(
        self,
        network: HostNetwork,
        prior: Decide,
        *,
        caution: float = 0.0,
        longest: float = np.inf,
        slowest: float = np.inf,
    ) -> None:
        self.network, self.prior, self.caution = network, prior, caution
        self._longest, self._slowest = longest, slowest

    def __call__(self, moment: Moment) -> NDArray[np.bool_]:
        """Tell which rows compute: (rows,)."""
        moment = familiar(moment, longest=self._longest, slowest=self._slowest)
        seen, masks = agent_input(moment, self.prior(moment))
        logits = np.where(masks, self.network(seen), -np.inf)
        return np.asarray(logits[:, 1] - self.caution > logits[:, 0])
