"""Static schedules of one step count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import BudgetError
from ditcache_rl.types import HISTORY, Floats


class PlanRow(NamedTuple):
    """The schedule of one budget."""

    patterns: NDArray[np.int64]
    """(steps,) pattern of every step."""
    weights: Floats
    """(steps, HISTORY) fitted weights of the estimates; nan where there are none."""

    @classmethod
    def unfitted(cls, patterns: NDArray[np.int64]) -> PlanRow:
        """Return a schedule whose estimates have Newton's weights."""
        return cls(patterns, np.full((len(patterns), HISTORY), np.nan))


class Plan(NamedTuple):
    """Static schedules of one step count, one for every budget."""

    patterns: NDArray[np.int64]
    """(budgets + 1, steps) patterns; row b spends b site computes, -1 where there is none."""
    quality: Floats
    """(budgets + 1, 2) mean PSNR in dB and SSIM on the search prompts; nan where unknown."""
    weights: Floats
    """(budgets + 1, steps, HISTORY) fitted weights of the estimates; nan where there are none."""
    floors: Floats
    """(budgets + 1, 2) PSNR in dB and SSIM that 95 % of select prompts reach; nan if unknown."""

    @classmethod
    def unfitted(cls, patterns: NDArray[np.int64], quality: Floats | None = None) -> Plan:
        """Return a plan whose estimates have Newton's weights, and that may not be scored."""
        if quality is None:
            quality = np.full((len(patterns), 2), np.nan)
        weights = np.full((*patterns.shape, HISTORY), np.nan)
        return cls(patterns, quality, weights, np.full((len(patterns), 2), np.nan))

    @classmethod
    def empty(cls, budgets: int, steps: int) -> Plan:
        """Return a plan without schedules, up to a number of site computes."""
        return cls.unfitted(np.full((budgets + 1, steps), -1, dtype=np.int64))

    @property
    def least(self) -> int:
        """Smallest budget that has a schedule."""
        return int(np.flatnonzero(self.patterns[:, 0] >= 0)[0])

    def row(self, budget: int) -> PlanRow:
        """Return the schedule of the largest budget that is not above the given one.

        Raises:
            BudgetError: If every schedule spends more.
        """
        rows = np.flatnonzero(self.patterns[: budget + 1, 0] >= 0)
        if not len(rows):
            raise BudgetError(
                f"expected a budget of at least {self.least} site computes, received {budget}"
            )
        return PlanRow(self.patterns[rows[-1]], self.weights[rows[-1]])
