"""Fit a collapsed schedule in several ways, and tell which of them gains.

With few steps computed it gains to move the times that the denoiser is told, and to look at images;
where guidance adds up branches, matrices gain. So all are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import Collapsed, collapse, euler_steps
from ditcache_rl.schedules.maps import guidance_of
from ditcache_rl.schedules.table import is_at
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.maps import fit_maps, steps_for
from ditcache_rl.search.told import fit_solver
from ditcache_rl.types import HISTORY, UNSEEN, Progress

#: Gauss-Newton steps; with two computed the fourth gains nothing any more.
_ROUNDS = 4
#: Most computed steps whose numbers are moved, as each of them costs a run.
_MOST_MOVED = 4


class FittedUpdates(NamedTuple):
    """What was fitted of a collapsed schedule, and what it is worth."""

    way: str
    """How it was fitted, in words."""
    collapsed: Collapsed
    found_db: float
    """Mean PSNR on the select prompts."""
    gain: Interval
    """Of the PSNR of a prompt over the schedule as it was."""


class Refit(NamedTuple):
    """What was fitted, beside what it started from."""

    own_db: float
    """Mean PSNR on the select prompts as it was."""
    fitted: tuple[FittedUpdates, ...]

    @property
    def best(self) -> FittedUpdates | None:
        """The best of those whose interval of what is gained lies above zero; None without any."""
        sure = [one for one in self.fitted if one.gain.low > 0]
        return max(sure, key=lambda one: one.found_db, default=None)


class _Fits:
    """What the ways share: cases, where they start, and what others have found."""

    def __init__(self, loops: Sequence[FreeLoop], collapsed: Collapsed) -> None:
        self.loops, self.collapsed = loops, collapsed
        self.found: dict[str, Collapsed] = {}
        full = loops[0].full
        self.guidance = guidance_of(full.outputs[0], full.branches[0])

    def descended(
        self, begins: str, free: Sequence[str], *, images: bool = False
    ) -> Collapsed | None:
        """Go on from where a way ended; other arguments are those of `fit_solver`."""
        if len(self.collapsed.path) > _MOST_MOVED:
            return None
        start = FreeSolver.of(self.found[begins], HISTORY)
        found = fit_solver(self.loops, start, free, rounds=_ROUNDS, images=images)
        return found.within(self.collapsed)

    def mapped(self, *, by_branch: bool = False, chosen: bool = False) -> Collapsed | None:
        """Fit matrices, for the steps of the schedule or for some that are chosen for them."""
        if by_branch and self.guidance is None:
            return None
        own = self.collapsed
        if chosen:
            path = steps_for(self.loops, len(own.path))
            if path == own.path:  # the way before has fitted them
                return None
            schedule = Schedule.on_path(path, len(own.sigmas) - 1)
            own = collapse(schedule, own.sigmas, euler_steps(own.sigmas))
        return fit_maps(self.loops, own, guidance=self.guidance if by_branch else None)


_OWN, _BOTH = "the schedule", ("times", "updates")
#: Ways to fit; each gives None where it is not to be tried.
_WAYS: dict[str, Callable[[_Fits], Collapsed | None]] = {
    "coefficients": lambda fits: fits.descended(_OWN, ["updates"]),
    "coefficients and told times": lambda fits: fits.descended("coefficients", _BOTH),
    "both, to images": lambda fits: fits.descended(
        "coefficients and told times", _BOTH, images=True
    ),
    "matrices": lambda fits: fits.mapped(),
    "matrices, for steps of their own": lambda fits: fits.mapped(chosen=True),
    "matrices by branch": lambda fits: fits.mapped(by_branch=True),
    "matrices by branch, for steps of their own": lambda fits: fits.mapped(
        by_branch=True, chosen=True
    ),
}


def refit(
    collapsed: Collapsed,
    train: Sequence[FreeLoop],
    select: Sequence[FreeLoop],
    *,
    progress: Progress = UNSEEN,
) -> Refit:
    """Fit a collapsed schedule in every way, and judge what is found.

    Args:
        collapsed: Where to start.
        train: What is fitted to.
        select: What tells whether anything is gained.
        progress: Hears how far it has come.

    Raises:
        ConfigError: If the pipeline has other noise levels.
    """
    if not is_at(collapsed.sigmas, train[0].sigmas):
        raise ConfigError(
            f"expected a pipeline with the noise levels of the schedule, {collapsed.sigmas}, "
            f"received {train[0].sigmas}; take the environment that the policy was made for"
        )
    fits = _Fits(train, collapsed)
    fits.found[_OWN] = collapsed
    progress.expect(len(_WAYS) + 1)
    for what, way in _WAYS.items():
        progress.stage(f"fit {what}")
        found = way(fits)
        if found is not None:
            fits.found[what] = found
        progress.advance(1)
    progress.stage("draw select prompts")
    psnr_db = {
        what: np.concatenate([one.psnr(found) for one in select])
        for what, found in fits.found.items()
    }
    progress.advance(1)
    own_db = psnr_db.pop(_OWN)
    return Refit(
        float(own_db.mean()),
        tuple(
            FittedUpdates(what, fits.found[what], float(db.mean()), mean_interval(db - own_db))
            for what, db in psnr_db.items()
        ),
    )
