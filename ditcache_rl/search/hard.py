"""Choose what a search looks at: cases as they come, and the ones that end worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.search.space import Space, spaced
from ditcache_rl.types import Mode

#: Share of the steps that the schedule computes by which cases are judged.
_SHARE = 1 / 7


class Sample(NamedTuple):
    """Cases for searches."""

    typical: list[Case]
    """As they come: their mean is a promise for others."""
    mixed: list[Case]
    """One in four is hard, and so is one in four of any first part."""
    hard: list[Case]
    """Those that end worst, the worst one first."""


def sample_cases(board: Board, cases: Sequence[Case], count: int) -> Sample:
    """Choose cases such that a search does not leave the worst images to chance.

    Among few cases there are hardly any that end badly. Which ones do depends little on the
    schedule, so an evenly spaced one tells.

    Args:
        board: Where the spaced schedule is drawn, once on every case.
        cases: What to choose from.
        count: How many the mixed ones are, and at most the others; half as many are hard.
    """
    space = Space(board.steps, board.sites)
    budget = max(2, round(_SHARE * board.steps)) * board.sites
    modes = space.modes(spaced(space, budget, between=Mode.FORECAST1))
    psnr_db = board.score(cases, [modes] * len(cases)).psnr_db
    worst = [cases[index] for index in np.argsort(psnr_db, kind="stable")]
    if len(cases) <= count:
        return Sample(list(cases), list(cases), worst[: (len(cases) + 1) // 2])
    few = worst[: count // 4]
    typical = [case for case in cases if case not in few][: count - len(few)]
    mixed = list(typical)
    for index, case in enumerate(few):
        mixed.insert(4 * index + 3, case)
    return Sample(typical, mixed, worst[: max(1, count // 2)])
