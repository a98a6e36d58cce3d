"""The protocol of everything that decides."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from ditcache_rl.types import Decision, Mode, Modes, RunInfo, StepInfo, Tier


class Controller(Protocol):
    """Decides what every site does at every step.

    `reset` is called once per request, on a shallow copy of the controller; it sets everything that
    belongs to the request, so that copies never share it. It is called again within a request where
    tensors change their shapes, as what was remembered of them can't be compared any more: see
    `start_over`. `decide` is called once per step, in order.
    """

    #: Leading blocks that are always computed and that the decision may look at.
    probe_blocks: int

    def reset(self, run: RunInfo) -> None:
        """Start a request."""
        ...

    def decide(self, info: StepInfo) -> Decision:
        """Choose modes and tiers of the present step."""
        ...


@runtime_checkable
class Planned(Protocol):
    """A controller that may know all of its decisions when a request starts."""

    def planned(self) -> Modes | None:
        """Return the modes of every step, row and site.

        Called after `reset`; None if some decision is not made yet. What is planned may be carried
        out without a call of `decide`, where everything is computed and nothing is read later.
        """
        ...


@runtime_checkable
class Counting(Protocol):
    """A controller that keeps count of what a request spends, and must not begin it again."""

    def forget(self, run: RunInfo) -> None:
        """Forget what was remembered of tensors, and nothing else."""
        ...


@runtime_checkable
class Asked(Protocol):
    """A controller that follows a target, and another one in a request that is asked for it."""

    target: Any
    """What is asked for; `str` writes it as a user did."""

    def ask(self, target: Any) -> None:
        """Follow another target in the request that this copy is for; called before `reset`."""
        ...


def target_of(controller: Controller) -> Any:
    """Return what a controller is asked for, None where it decides by itself."""
    return getattr(controller, "target", None)


def start_over(controller: Controller, run: RunInfo) -> None:
    """Have a controller go on within a request without what it remembers of tensors."""
    if isinstance(controller, Counting):
        controller.forget(run)
    else:
        controller.reset(run)


def planned_modes(controller: Controller) -> Modes | None:
    """Return what a controller will decide, None if it does not know or does not say."""
    return controller.planned() if isinstance(controller, Planned) else None


class Delegating:
    """A controller that has another one decide, which its `reset` chooses."""

    probe_blocks = 0
    _delegate: Controller

    @property
    def chosen(self) -> Controller:
        """What `reset` chose."""
        return self._delegate

    def forget(self, run: RunInfo) -> None:
        """Have the chosen controller start over."""
        start_over(self._delegate, run)

    def planned(self) -> Modes | None:
        """Return the schedule, None where what was chosen decides online."""
        return planned_modes(self._delegate)

    def decide(self, info: StepInfo) -> Decision:
        """Ask the chosen controller."""
        return self._delegate.decide(info)


def uniform_decision(run: RunInfo, mode: Mode, tier: Tier = Tier.DEVICE) -> Decision:
    """Decide the same for every row and site."""
    shape = (run.rows, run.sites)
    return Decision(np.full(shape, mode, dtype=np.int8), np.full(shape, tier, dtype=np.int8))
