"""What is known when a step of an image with a deadline is decided; the same simulated and real."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.types import Floats
from ditcache_rl.world.gauge import ABSOLUTE
from ditcache_rl.world.gauge import NAMES as GAUGE_NAMES


class Prices(NamedTuple):
    """What an image costs, in computes of a step on an unloaded machine."""

    before: float
    """Up to the first step: text encoders."""
    idle: float
    """A step that computes nothing."""
    after: float
    """Behind the last step: decoding."""


class Moment(NamedTuple):
    """Rows at one step; times are in computes of an unloaded machine."""

    step: int
    sigmas: Floats
    """(steps + 1,) noise levels."""
    older: NDArray[np.int64]
    """(rows,) the computed step before the newest one; the newest where there is none."""
    newest: NDArray[np.int64]
    """(rows,) newest computed step; 0 before the first."""
    computed: NDArray[np.int64]
    """(rows,) computed steps so far."""
    left: Floats
    """(rows,) time until the deadline, without what comes after the last step at present speed."""
    given: Floats
    """(rows,) time between the start of the image and its deadline."""
    gauge: Floats
    """(rows, GAUGE_NAMES) facts of the machine's speed."""
    lost: Floats
    """(rows,) what the gaps so far add to the mean square error of the image."""

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return len(self.sigmas) - 1

    @property
    def slowdown(self) -> Floats:
        """(rows, rates) moving averages, as factors."""
        return np.asarray(np.exp(self.gauge[:, :3]))


#: Names of `observation`.
NAMES = (
    "time_left",  # in present computes, over the steps that are left; 1 means compute all
    "log_time_left",  # logarithm of present computes left, over 3
    "time_given",  # in unloaded computes, over the steps
    "step_share",
    "sigma",
    "age",  # steps since the newest compute, over 8
    "older_age",  # steps between the two newest computes, over 8
    "computed_share",
    "psnr_so_far",  # in dB over 60, of the gaps so far, were the rest computed
    *GAUGE_NAMES,
)
_CLIP = 5.0
_TINY = 1e-8


def observation(moment: Moment) -> NDArray[np.float32]:
    """Describe a moment to an agent: (rows, NAMES) float32, dimensionless and of order one."""
    steps, ahead = moment.steps, moment.steps - moment.step
    present = moment.left / moment.slowdown[:, 0]
    known = moment.newest
    columns = (
        present / ahead,
        np.log(np.maximum(present, 0.05)) / 3,
        moment.given / steps,
        moment.step / steps,
        moment.sigmas[moment.step],
        (moment.step - known) / 8,
        (known - moment.older) / 8,
        moment.computed / steps,
        -np.log10(np.maximum(moment.lost, _TINY)) / 6,
    )
    every = np.empty((len(present), len(NAMES)))
    for place, column in enumerate(columns):
        every[:, place] = column
    every[:, len(columns) :] = moment.gauge
    return np.minimum(np.maximum(every, -_CLIP), _CLIP).astype(np.float32)


def familiar(moment: Moment, *, longest: float, slowest: float) -> Moment:
    """Measure time in computes of a slower machine, where this one is slower than any before.

    What counts is how many computes fit: a machine that takes twice as long, with twice the time,
    is decided alike. So a network is shown the times that it was trained on, where there are any
    that mean the same.

    Args:
        moment: Now.
        longest: Most time that was given in training, in unloaded computes; infinite for any.
        slowest: Largest slowdown there; likewise.
    """
    slowdown = moment.slowdown[:, -1]  # the one that changes least
    longer = np.minimum(moment.given / longest, slowdown)
    factor = np.maximum(1.0, np.maximum(slowdown / slowest, longer))
    if factor.max() == 1.0:
        return moment
    facts = moment.gauge.copy()
    facts[:, ABSOLUTE] -= np.log(factor)[:, None]
    return moment._replace(left=moment.left / factor, given=moment.given / factor, gauge=facts)
