"""The protocol of everything that decides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from ditcache_rl.types import Decision, Mode, Modes, RunInfo, StepInfo, Tier


class Controller(Protocol):
    """Decides what every site does at every step.

    `reset` is called once per request, on a shallow copy of the controller; it sets everything that
    belongs to the request, so that copies never share it. `decide` is called once per step, in
    order.
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
        """Return the modes of every step, row and site, all kept on the default tier.

        Called after `reset`; None if some decision is not made yet. What is planned may be carried
        out without a call of `decide`, where everything is computed and nothing is read later.
        """
        ...


def planned_modes(controller: Controller) -> Modes | None:
    """Return what a controller will decide, None if it does not know or does not say."""
    return controller.planned() if isinstance(controller, Planned) else None


def uniform_decision(run: RunInfo, mode: Mode, tier: Tier = Tier.DEVICE) -> Decision:
    """Decide the same for every row and site."""
    shape = (run.rows, run.sites)
    return Decision(np.full(shape, mode, dtype=np.int8), np.full(shape, tier, dtype=np.int8))
