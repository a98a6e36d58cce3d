"""The protocol of everything that decides."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo, Tier


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


def uniform_decision(run: RunInfo, mode: Mode, tier: Tier = Tier.DEVICE) -> Decision:
    """Decide the same for every row and site."""
    shape = (run.rows, run.sites)
    return Decision(np.full(shape, mode, dtype=np.int8), np.full(shape, tier, dtype=np.int8))
