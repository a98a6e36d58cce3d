"""Choose what a search looks at: cases as they come, and the ones that end worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Case, Scorer
from ditcache_rl.schedules import spaced

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


def sample_cases(board: Scorer, cases: Sequence[Case], count: int) -> Sample:
    """Choose cases such that a search does not leave the worst images to chance.

    Among few cases there are hardly any that end badly. Which ones do depends little on the
    schedule, so an evenly spaced one tells.

    Args:
        board: Where the spaced schedule is drawn, once on every case.
        cases: What to choose from.
        count: How many the mixed ones are, and at most the others; half as many are hard.
    """
    computes = max(2, round(_SHARE * board.steps)) * board.sites
    even = spaced(board.steps, board.sites, computes)
    psnr_db = board.score(cases, [even] * len(cases)).psnr_db
    worst = [cases[index] for index in np.argsort(psnr_db, kind="stable")]
    if len(cases) <= count:
        return Sample(list(cases), list(cases), worst[: (len(cases) + 1) // 2])
    few = worst[: count // 4]
    typical = [case for case in cases if case not in few][: count - len(few)]
    mixed = list(typical)
    for index, case in enumerate(few):
        mixed.insert(4 * index + 3, case)
    return Sample(typical, mixed, worst[: max(1, count // 2)])
