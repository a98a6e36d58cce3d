"""Choose what a search looks at: cases as they come, and the ones that end worst."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ditcache_rl.search.board import Board, Case
from ditcache_rl.search.space import Space, spaced
from ditcache_rl.types import Mode

#: Share of the steps that the schedule computes by which cases are judged.
_SHARE = 1 / 7


def mixed_cases(board: Board, cases: Sequence[Case], count: int) -> list[Case]:
    """Choose as many typical cases as hard ones.

    Among few cases there are hardly any that end badly, so a search leaves these to chance. Which
    ones do so depends little on the schedule, hence an evenly spaced one tells.

    Args:
        board: Where the spaced schedule is drawn.
        cases: What to choose from; the first ones are the typical ones.
        count: How many to choose; all of them if there are not more.

    Returns:
        Typical and hard ones in turn.
    """
    if len(cases) <= count:
        return list(cases)
    typical, others = cases[: (count + 1) // 2], cases[(count + 1) // 2 :]
    space = Space(board.steps, board.sites)
    budget = max(2, round(_SHARE * board.steps)) * board.sites
    modes = space.modes(spaced(space, budget, between=Mode.FORECAST1))
    psnr_db = board.score(others, [modes] * len(others)).psnr_db
    hard = [others[index] for index in np.argsort(psnr_db, kind="stable")[: count // 2]]
    pairs = itertools.zip_longest(typical, hard)
    return [case for pair in pairs for case in pair if case is not None]
