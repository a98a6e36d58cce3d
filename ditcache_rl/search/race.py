"""Errors of paths on two halves of the cases: who loses on the one is not tried on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ditcache_rl.bench import Case
from ditcache_rl.schedules import ComputePath
from ditcache_rl.search.fit import asked
from ditcache_rl.search.proposals import Calibration

#: Fewer cases are too few to be halved.
_HALVED = 16


class Race:
    """Tells errors of paths, forecasts fitted to each half of the cases.

    A path is first tried on the half that its steps say, so that none of the two decides alone
    which way a climb goes. Only who has a smaller error there than the best one is tried on both.

    Args:
        calibration: Has what fits.
        cases: What is fitted on; few are not halved.
    """

    def __init__(self, calibration: Calibration, cases: Sequence[Case]) -> None:
        middle = -(-len(cases) // 2) if len(cases) >= _HALVED else len(cases)
        halves = [half for half in (cases[:middle], cases[middle:]) if half]
        self._board = calibration.board
        self._fitters = [calibration.fitter(half) for half in halves]
        self._weights = [len(half) / len(cases) for half in halves]
        self._known = [dict[ComputePath, float]() for _ in halves]

    def errors(self, paths: Sequence[ComputePath], rival: ComputePath | None) -> list[float]:
        """Return the error of each path over all cases; inf where it lost to a rival on a half.

        Args:
            paths: Computed steps.
            rival: The best one so far, which was tried on all cases; None for none.
        """
        count = len(self._fitters)
        self._try([(sum(path) % count, path) for path in paths])
        left = list(paths)
        if rival is not None:
            left = [path for path in paths if self._leads(path, rival, sum(path) % count)]
        self._try([(half, path) for path in left for half in range(count)])
        return [self._error(path) if path in left else math.inf for path in paths]

    def _leads(self, path: ComputePath, rival: ComputePath, half: int) -> bool:
        return self._known[half][path] < self._known[half][rival]

    def _error(self, path: ComputePath) -> float:
        parts = zip(self._weights, self._known, strict=True)
        return sum(weight * known[path] for weight, known in parts)

    def _try(self, tries: Sequence[tuple[int, ComputePath]]) -> None:
        fresh = [(half, path) for half, path in tries if path not in self._known[half]]
        found = asked(self._board, [(self._fitters[half], "error", path) for half, path in fresh])
        for (half, path), error in zip(fresh, found, strict=True):
            self._known[half][path] = error
