"""Schedules decided beforehand."""

from __future__ import annotations

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Decision, Modes, RunInfo, StepInfo, Tier


class StaticSchedule:
    """Follow a table of modes, the same for every row.

    Args:
        modes: (steps, sites) `Mode` values; the first step must compute every site.

    Raises:
        ConfigError: If the first step leaves a site uncomputed.
    """

    probe_blocks = 0

    def __init__(self, modes: Modes) -> None:
        if modes.ndim != 2 or modes[0].any():
            raise ConfigError(
                "expected a (steps, sites) table whose first step computes every site, received "
                f"shape {modes.shape} with first step {modes[0].tolist() if modes.size else []}"
            )
        self.modes = modes.astype(np.int8)

    def reset(self, run: RunInfo) -> None:
        """Check that the table fits the request.

        Raises:
            ConfigError: If steps or sites differ.
        """
        if self.modes.shape != (run.num_inference_steps, run.sites):
            raise ConfigError(
                f"expected a request of {self.modes.shape[0]} steps and {self.modes.shape[1]} sites as in the "
                f"schedule, received {run.num_inference_steps} steps and {run.sites} sites"
            )

    def decide(self, info: StepInfo) -> Decision:
        """Read the row of the table."""
        modes = np.repeat(self.modes[info.step][None], info.run.rows, axis=0)
        return Decision(modes, np.full_like(modes, Tier.DEVICE))
