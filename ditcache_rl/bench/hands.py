"""Deal rows to replicas of a pipeline so that none waits for another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.schedules import Schedule


def dealt(schedules: Sequence[Schedule], hands: int) -> list[NDArray[np.int64]]:
    """Deal rows out so that all hands have as much to compute, at every step alike.

    Rows that compute as much mostly follow the same schedule, of which each hand gets its share.
    Rows that lie beside each other may all be expensive, and a step is as long as its longest part.

    Args:
        schedules: What each row follows, or begins with.
        hands: Who plays rows.

    Returns:
        Numbers of the rows of each hand that has some, ascending.
    """
    order = np.argsort([one.computes for one in schedules], kind="stable")
    return [np.sort(order[hand::hands]) for hand in range(min(hands, len(order)))]
