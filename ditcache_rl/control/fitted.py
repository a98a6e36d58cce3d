"""Say what was fitted to a schedule, step by step, in the words of a decision."""

from __future__ import annotations

import numpy as np

from ditcache_rl.types import HISTORY, Fitted, Floats, Mode, Modes


def fitted_steps(modes: Modes, weights: Floats) -> list[Fitted | None]:
    """Pair the weights of every step with the steps whose residuals they weigh.

    Args:
        modes: (steps, rows) of a single site.
        weights: (steps, rows, HISTORY), nan where none were fitted.

    Returns:
        One entry per step, None where no row has any.
    """
    steps, rows = modes.shape
    known = np.full((rows, HISTORY), -1, dtype=np.int64)
    found: list[Fitted | None] = []
    for step in range(steps):
        has = np.isfinite(weights[step, :, 0])
        found.append(Fitted(known.copy(), weights[step]) if has.any() else None)
        computing = modes[step] == Mode.COMPUTE
        known[computing, 1:] = known[computing, :-1]
        known[computing, 0] = step
    return found
