"""Watch over whoever decides: where estimates go wrong, the rest of a request is computed.

Who decides is asked as ever, and only ever overruled towards computing, which needs no entry. So
what a schedule says beforehand of the entries that it reads still holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.config import check_within
from ditcache_rl.control.base import Controller, Delegating, planned_modes, target_of
from ditcache_rl.types import (
    MOST_COUNT,
    MOST_STEPS,
    Decision,
    Floats,
    Mode,
    Modes,
    RunInfo,
    StepInfo,
    Tier,
)

#: Under the cheapest schedules of `shapes-ppo` 128 images had 1.8 at most, and 0.7 mostly; what
#: explodes is off by orders of magnitude.
_FAR_OFF = 4.0


@dataclass(frozen=True, slots=True)
class Guard:
    """What requests are watched for.

    The first step is computed in any case, and an image that is not finite is an error.

    ::

        dc.attach(pipe, policy, guard=dc.Guard(longest=4, last=True))

    Attributes:
        most_error: Most that a computed output may lie off the estimate of the step before, over
            its norm. In a row where it lies further, the rest of the request is computed, from the
            second step after it on: so nobody waits for a device.
        longest: Most steps that a site is estimated in a row; None for no limit.
        last: Whether the last step is computed.
        patience: So many requests in a row whose estimates were further off than those of any image
            that the policy was trained on, and everything is computed from then on; where the
            policy knows what that means for an image. None for never.

    Raises:
        ConfigError: If a number is out of range.
    """

    most_error: float = _FAR_OFF
    longest: int | None = None
    last: bool = False
    patience: int | None = 3

    def __post_init__(self) -> None:
        check_within("most_error", self.most_error, 0, above=True)
        if self.longest is not None:
            check_within("longest", self.longest, 1, MOST_STEPS, whole=True)
        if self.patience is not None:
            check_within("patience", self.patience, 1, MOST_COUNT, whole=True)


class GuardedController(Delegating):
    """Has another controller decide, and computes what a guard wants computed.

    Args:
        controller: Decides; a copy of this request.
        guard: What to watch for.

    Attributes:
        target: What the other controller is asked for; None where it decides by itself.
        reasons: For each run, why rows were computed to the end; "" where none were.
    """

    def __init__(self, controller: Controller, guard: Guard) -> None:
        self.probe_blocks, self.target = controller.probe_blocks, target_of(controller)
        self.reasons: list[str] = []
        self._delegate, self._guard = controller, guard
        self._bounds = guard.last or guard.longest is not None

    def reset(self, run: RunInfo) -> None:
        """Start a request."""
        self._delegate.reset(run)
        self.reasons.append("")
        self._lost: NDArray[np.bool_] | None = None
        self._idle = np.zeros((run.rows, run.sites), dtype=np.int64)

    def planned(self) -> Modes | None:
        """Return the schedule, with what is computed in any case."""
        wished = planned_modes(self._delegate)
        if wished is None or not self._bounds:
            return wished
        idle, modes = np.zeros(wished.shape[1:], dtype=np.int64), wished.copy()
        for step in range(len(modes)):
            modes[step] = self._bounded(modes[step], idle, step=step, steps=len(modes))
            idle = np.where(modes[step] > Mode.COMPUTE, idle + 1, 0)
        return modes

    def decide(self, info: StepInfo) -> Decision:
        """Ask, and compute more where that is needed."""
        if info.error is not None:
            self._look(info.error(), of=info.step - 2)
        decision = self._delegate.decide(info)
        if self._lost is None and not self._bounds:
            return decision
        modes = self._bounded(
            decision.modes, self._idle, step=info.step, steps=info.run.num_inference_steps
        )
        if self._lost is not None:
            modes = np.where(self._lost[:, None], np.int8(Mode.COMPUTE), modes)
        self._idle = np.where(modes > Mode.COMPUTE, self._idle + 1, 0)
        # What was not meant to be computed has no place of its own.
        fresh = (modes == Mode.COMPUTE) & (decision.modes != Mode.COMPUTE)
        tiers = np.where(fresh, np.int8(Tier.DEVICE), decision.tiers)
        return decision._replace(modes=modes, tiers=tiers)

    def _bounded(self, modes: Modes, idle: NDArray[np.int64], *, step: int, steps: int) -> Modes:
        """Compute what is computed in any case: (rows, sites)."""
        if self._guard.last and step == steps - 1:
            return np.full_like(modes, Mode.COMPUTE)
        if self._guard.longest is not None and (idle >= self._guard.longest).any():
            return np.where(idle >= self._guard.longest, np.int8(Mode.COMPUTE), modes)
        return modes

    def _look(self, error: Floats, *, of: int) -> None:
        """Give up rows whose estimates were far off: (rows,), by what a step computed."""
        off = error > self._guard.most_error
        if not off.any():
            return
        self._lost = off if self._lost is None else self._lost | off
        self.reasons[-1] = self.reasons[-1] or (
            f"an estimate was off by {error[off].max():.3g} of what step {of} computed"
        )
