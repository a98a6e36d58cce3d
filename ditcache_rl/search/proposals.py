"""Propose schedules from calibrated errors alone, before any of them is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.spacing import pay_up
from ditcache_rl.search.calibrate import (
    CALIBRATED,
    ErrorTable,
    Products,
    fitted_gap_costs,
    gap_costs,
    measure_gaps,
    measure_products,
)
from ditcache_rl.search.fit import GapFitter
from ditcache_rl.search.paths import cheapest_path, minimax_path, threshold_for
from ditcache_rl.search.space import Space
from ditcache_rl.types import Floats, Mode

#: Prompts of a calibration: ten are enough for error tables (DPCache, SmoothCache), and one nearly
#: for gaps (LeMiCa: 24.51 dB with 1, 24.67 dB with 350), each of which takes a run of its own.
_ERROR_CASES, _GAP_CASES = 10, 2
#: How much more than their sum large errors count, as MeanCache tries it.
_POWERS = (1.0, 2.0, 4.0)


@dataclass(slots=True)
class Calibration:
    """Measurements on a board's first cases, made when they are asked for and kept.

    Attributes:
        board: Draws on a pipeline.
        cases: Of which the first few are measured.
        say: Hears what is being measured.
    """

    board: Board
    cases: Sequence[Case]
    say: Callable[[str], None] = field(default=lambda _: None)
    _products: Products | None = None
    _errors: ErrorTable | None = None
    _fitted: Floats | None = None
    _gaps: dict[Mode, Floats] = field(default_factory=dict)
    _fitters: dict[tuple[Case, ...], GapFitter] = field(default_factory=dict)

    def fitter(self, cases: Sequence[Case]) -> GapFitter:
        """Return what fits forecasts to cases; those that a known one has are not drawn again.

        Raises:
            UnsupportedModelError: As `GapFitter`.
        """
        wanted = tuple(cases)
        if wanted not in self._fitters:
            known = self._fitters.values()
            self._fitters[wanted] = GapFitter(self.board, wanted, known=known)
        return self._fitters[wanted]

    def resting_on(self, products: Products) -> Calibration:
        """Return one whose residuals were compared elsewhere."""
        return Calibration(self.board, self.cases, self.say, products)

    def products(self) -> Products:
        """Return what residuals have to do with each other."""
        if self._products is None:
            self.say("measuring the error of every estimate")
            self._products = measure_products(self.board, self.cases[:_ERROR_CASES])
        return self._products

    def errors(self) -> ErrorTable:
        """Return the errors of reuse and forecast."""
        if self._errors is None:
            self._errors = ErrorTable.of(self.products())
        return self._errors

    def fitted_gaps(self) -> Floats:
        """Return what single gaps lack with fitted coefficients."""
        if self._fitted is None:
            self._fitted = fitted_gap_costs(self.products())
        return self._fitted

    def gaps(self, between: Mode) -> Floats:
        """Return the final errors of single gaps."""
        if between not in self._gaps:
            self.say(f"measuring every gap: {between.name.lower()}")
            longest = self.board.steps // 2
            self._gaps[between] = measure_gaps(
                self.board, self.cases[:_GAP_CASES], between, longest=longest
            )
        return self._gaps[between]


def dp_proposals(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
    """Minimise the error of all skipped steps together, by path-aware dynamic programming."""
    length, last = _ends(space, computes)
    paths = [
        (cheapest_path(gap_costs(table, power=power), length, last=last), filling)
        for table, filling in _fillings(calibration.errors().displacement, space)
        for power in _POWERS
    ]
    return _schedules(paths, space, computes)


def gap_proposals(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
    """Minimise what all gaps together lack, each alone and with fitted coefficients.

    Nothing where the pipeline's loop cannot be taken apart.
    """
    if not _is_measurable(calibration):
        return []
    length, last = _ends(space, computes)
    path = cheapest_path(calibration.fitted_gaps(), length, last=last)
    return _schedules([(path, {Mode.FORECAST1: _NONE})], space, computes)


def minimax_proposals(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
    """Minimise the worst gap, judged by what it alone does to the final latents."""
    length, last = _ends(space, computes)
    paths = [
        (minimax_path(_bounded(calibration.gaps(mode)), length, last=last), {mode: _NONE})
        for mode in CALIBRATED
        if mode in space.between
    ]
    return _schedules(paths, space, computes)


def threshold_proposals(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
    """Estimate as long as the error stays within a threshold that meets the number of computes."""
    length, last = _ends(space, computes)
    paths = [
        (threshold_for(table, length, last=last), filling)
        for table, filling in _fillings(calibration.errors().relative, space)
    ]
    return _schedules(paths, space, computes)


def proposals(calibration: Calibration, space: Space, computes: int) -> list[Schedule]:
    """List what a climb is best started from: dynamic program and error table.

    Nothing where the pipeline's loop cannot be taken apart, so that a climb starts without.
    """
    if not _is_measurable(calibration):
        return []
    return dp_proposals(calibration, space, computes) + threshold_proposals(
        calibration, space, computes
    )


def _is_measurable(calibration: Calibration) -> bool:
    """Tell whether the loop can be taken apart, and say why not."""
    try:
        calibration.products()
    except UnsupportedModelError as error:
        calibration.say(f"without proposals: {error}")
        return False
    return True


_NONE = np.zeros((0, 0, 0))


def _ends(space: Space, computes: int) -> tuple[int, int | None]:
    """Return how many whole steps compute, and which is the last if that is fixed."""
    return computes // space.sites, space.steps - 1 if space.ends else None


def _schedules(
    paths: Sequence[tuple[ComputePath, Mapping[Mode, Floats]]], space: Space, computes: int
) -> list[Schedule]:
    """Turn paths of whole steps into schedules that compute so many sites."""
    return [pay_up(_filled(path, filling, space), computes) for path, filling in paths]


def _fillings(
    errors: Mapping[Mode, Floats], space: Space
) -> list[tuple[Floats, dict[Mode, Floats]]]:
    """List the ways to fill gaps: each mode alone, and at every step the one that errs least."""
    tables = {mode: errors[mode] for mode in CALIBRATED if mode in space.between}
    ways = [(table, {mode: table}) for mode, table in tables.items()]
    if len(tables) > 1:
        ways.append((np.minimum.reduce(list(tables.values())), tables))
    return ways


def _filled(path: ComputePath, filling: Mapping[Mode, Floats], space: Space) -> Schedule:
    """Fill the steps between the computed ones with the mode that errs least there."""
    modes = list(filling)
    steps = np.full(space.steps, int(modes[0]), dtype=np.int8)
    steps[list(path)] = Mode.COMPUTE
    ends = (path[0], *path, space.steps)
    for older, newest, stop in zip(ends, ends[1:], ends[2:], strict=False):
        for step in range(newest + 1, stop if len(modes) > 1 else newest):
            errors = [filling[mode][older, newest, step] for mode in modes]
            steps[step] = modes[int(np.argmin(errors))]
    return Schedule(np.repeat(steps[:, None], space.sites, axis=1))


def _bounded(edges: Floats) -> Floats:
    """Give gaps that were too long to be measured a cost above all others, growing with them."""
    gaps = np.arange(edges.shape[1])[None] - np.arange(len(edges))[:, None]
    worst = edges[np.isfinite(edges)].max()
    return np.where(np.isfinite(edges), edges, worst * (1 + gaps))
