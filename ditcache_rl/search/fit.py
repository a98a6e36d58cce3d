"""Fit the coefficients of forecasts to the gaps of a schedule.

Newton's coefficients follow from the noise levels alone. Fitted ones are what carries the latents
best from one computed step to the next on some prompts: one to three numbers a gap, so that few
prompts settle them. This needs a denoiser that is cached as a whole: then estimating is arithmetic,
and a schedule costs what it computes.

Source: the idea of solvers whose coefficients are learned for a model (S4S, arXiv 2502.17423),
applied to the steps that a schedule leaves out.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.forecast import path_coefficients
from ditcache_rl.search.calibrate import Products, products_of
from ditcache_rl.search.equations import normal_equations, solve, squares
from ditcache_rl.search.parts import Part, recorded_parts, told_parts
from ditcache_rl.types import HISTORY, Floats

#: States that are kept: those of a schedule and of the moves around it.
_KEPT = 256
#: Share of a coefficient's own curvature that is added where the cases leave it open; more in
#: the last fit, in which the effects of coefficients depend on each other.
_RIDGE, _LAST_RIDGE = 1e-6, 1e-2
#: Coefficients of a gap that the last fit corrects: a third one costs as much as each of them, and
#: gains little.
CORRECTED = 2
#: Change of a coefficient by which its effect on the final latents is measured.
_NUDGE = 1e-3


class _State(NamedTuple):
    """Where the cases are after a step that was just computed; all lists are per part."""

    latents: list[Tensor]
    """(rows, ...) after the step."""
    outputs: list[list[Tensor]]
    """(rows, features) what is cached of the last computed steps, newest first."""
    added: Floats
    """(gaps so far, HISTORY) what was added to those of a line."""


class GapFitter:
    """Carry cases through schedules, one gap between computed steps at a time.

    Args:
        board: Pipeline and steps.
        cases: What is drawn; their full trajectories are recorded first.
        known: Fitters of the board; what one has recorded of the first cases is not drawn again.
        recorded: Trajectories that a fitter of these cases has recorded elsewhere.

    Raises:
        UnsupportedModelError: If the denoiser is not one site, or its loop can't be taken apart.
    """

    def __init__(
        self,
        board: Board,
        cases: Sequence[Case],
        *,
        known: Iterable[GapFitter] = (),
        recorded: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        if board.sites != 1 or not is_whole(board.blocks):
            raise UnsupportedModelError(
                "expected a denoiser that is cached as a whole to fit forecasts, received "
                f"{board.sites} sites of its blocks; set sites = 1 and blocks to the name of the "
                'denoiser, such as "transformer", in the [cache] table'
            )
        self.board, self.steps, self._cases = board, board.steps, tuple(cases)
        begun = [one for one in known if one._cases == self._cases[: len(one._cases)]]
        self._parts: list[Part] = (
            told_parts(board, self._cases, recorded)
            if recorded
            else recorded_parts(board, self._cases, begun[-1]._parts if begun else ())
        )
        self._sigmas = self._parts[0].replay.sigmas
        self._told: Callable[[], Sequence[Sequence[Tensor]]] | None = None
        self._states: OrderedDict[ComputePath, _State] = OrderedDict()

    def products(self) -> Products:
        """Return what residuals of full compute have to do with each other, for a calibration."""
        return products_of([part.replay for part in self._parts])

    @classmethod
    def is_possible(cls, board: Board, cases: Sequence[Case]) -> bool:
        """Tell whether forecasts of a board can be fitted."""
        try:
            cls(board, cases[:1])
        except UnsupportedModelError:
            return False
        return True

    def errors(self, paths: Sequence[ComputePath]) -> list[float]:
        """Return the error of each path, in the crew of the board if there is one."""
        return list(self._spread("error", [(path,) for path in paths]))

    def error(self, path: ComputePath) -> float:
        """Return the mean logarithm of the squared error of the final latents, gaps fitted."""
        return self._error(self.reached(path)[0])

    def reached(self, path: ComputePath) -> tuple[list[Tensor], Floats]:
        """Return the final latents, gaps fitted, and what was added to the coefficients of each."""
        return self._end(self._fitted_states(path)[-1], path)

    def fit(self, path: ComputePath, *, together: bool = True) -> Schedule:
        """Return the schedule that computes a path, with fitted coefficients."""
        return Schedule.on_path(path, self.steps, self.coefficients(path, together=together))

    @torch.no_grad()
    def coefficients(self, path: ComputePath, *, together: bool = True) -> Floats:
        """Fit the coefficients of a schedule: (steps, HISTORY), nan at computed steps.

        Every gap is first fitted to the full trajectory at its end, given the gaps before. Then the
        coefficients of newer outputs are corrected together by what they do to the final latents,
        unless that takes too long: it costs a rollout per coefficient.
        """
        if not together:
            return path_coefficients(path, self._sigmas, self.reached(path)[1])
        # Whoever moves a coefficient begins there: all of a crew get there at once.
        *_, (end, added) = self._spread("reached", [(path,)] * self.board.hands)
        error, correction = self._error(end), self._correction(path, added, end)
        for share in (1.0, 0.5):
            tried = added + share * correction
            end, _ = self._end(self._states_of(path, tried)[-1], path, tried)
            if self._error(end) < error:
                return path_coefficients(path, self._sigmas, tried)
        return path_coefficients(path, self._sigmas, added)

    def _correction(self, path: ComputePath, added: Floats, end: list[Tensor]) -> Floats:
        """Return the Gauss-Newton step of newer coefficients; cases count by relative errors."""
        places = [
            (gap, place)
            for gap, (newest, stop) in enumerate(itertools.pairwise((*path, self.steps)))
            for place in range(min(gap + 1, CORRECTED))
            if stop - newest > 1
        ]
        correction = np.zeros_like(added)
        if not places:
            return correction
        moved = self._spread("nudged", [(path, added, *place) for place in places])
        effects = [(one - torch.cat(end)).flatten(1).double() / _NUDGE for one in moved]
        gram, moment = normal_equations(torch.stack(effects, dim=2), self._wrong(end))
        correction[tuple(np.transpose(places))] = solve(gram, moment, _LAST_RIDGE)
        return correction

    @torch.no_grad()
    def nudged(self, path: ComputePath, added: Floats, gap: int, place: int) -> Tensor:
        """Return the final latents with one coefficient of a path moved a little.

        Args:
            path: Computed steps.
            added: (gaps, HISTORY) as they were fitted to the path.
            gap: Of the coefficient.
            place: In the gap.
        """
        moved = added.copy()
        moved[gap, place] += _NUDGE
        states = self._fitted_states(path)[: gap + 1]
        last = self._states_of(path, moved, known=states)[-1]
        return torch.cat(self._end(last, path, moved)[0])

    def _spread(self, method: str, questions: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Ask a method every question, of fitters in the crew of the board if there is one."""
        if self.board.crew is None:
            return (getattr(self, method)(*one) for one in questions)
        if self._told is None:
            self._told = self.board.crew.share(
                [[one.cpu() for one in part.recorded] for part in self._parts]
            )
        asked = [(self._cases, self._told, method, *one) for one in questions]
        return self.board.spread(_asked, asked)

    @torch.no_grad()
    def _fitted_states(self, path: ComputePath) -> list[_State]:
        """Return the state at every computed step, gaps fitted; what is known is not run again."""
        found: list[_State] = []
        for length in range(1, len(path) + 1):
            begun = path[:length]
            if begun not in self._states:
                self._states[begun] = self._next(found, begun, None)
            self._states.move_to_end(begun)
            found.append(self._states[begun])
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return found

    def _states_of(
        self, path: ComputePath, added: Floats, *, known: Sequence[_State] = ()
    ) -> list[_State]:
        """Return the state at every computed step under given coefficients, some known already."""
        found = list(known)
        for length in range(len(found) + 1, len(path) + 1):
            found.append(self._next(found, path[:length], added))
        return found

    def _next(
        self,
        before: Sequence[_State],
        path: ComputePath,
        added: Floats | None,
    ) -> _State:
        """Return the state after the last step of a path, given the states at those before."""
        if before:
            latents, added = self._cross(before[-1], path[:-1], path[-1], added)
            older = before[-1].outputs
        else:
            latents = [part.recorded[0] for part in self._parts]
            older, added = [[] for _ in latents], np.zeros((0, HISTORY))
        moved, outputs = [], []
        for part, own, past in zip(self._parts, latents, older, strict=True):
            reached, cached = part.compute(path[-1], own)
            moved.append(reached)
            outputs.append([cached, *past[: HISTORY - 1]])
        return _State(moved, outputs, added)

    def _end(
        self, last: _State, path: ComputePath, added: Floats | None = None
    ) -> tuple[list[Tensor], Floats]:
        """Return the final latents, and what was added to the coefficients of every gap."""
        return self._cross(last, path, self.steps, added)

    @torch.no_grad()
    def _cross(
        self, state: _State, path: ComputePath, stop: int, added: Floats | None
    ) -> tuple[list[Tensor], Floats]:
        """Estimate the steps of the gap after a path; coefficients not given are fitted."""
        known = path[::-1][:HISTORY]
        at = zip(self._parts, state.latents, state.outputs, strict=True)
        ways = [partial(part.reach, latents, outputs, known, stop) for part, latents, outputs in at]
        own = np.zeros(HISTORY)
        if stop - known[0] > 1:
            own = added[len(path) - 1] if added is not None else self._fit(ways, len(known), stop)
        return [reach(own) for reach in ways], np.vstack([state.added, own])

    def _fit(self, ways: Sequence[Callable[[Floats], Tensor]], known: int, stop: int) -> Floats:
        """Return what to add to the coefficients of a gap so that it ends nearest to full compute.

        Every case counts by its relative error, or the hard ones would settle the fit alone.

        Args:
            ways: By part, takes it to the end of the gap.
            known: Outputs that are weighed.
            stop: Step at which the gap ends.
        """
        gram, moment = np.zeros((known, known)), np.zeros(known)
        for part, reach in zip(self._parts, ways, strict=True):
            start = reach(np.zeros(HISTORY))
            wrong = (part.recorded[stop] - start).flatten(1).double()
            moved = [(reach(unit) - start).flatten(1).double() for unit in np.eye(HISTORY)[:known]]
            found = normal_equations(torch.stack(moved, dim=2), wrong)
            gram, moment = gram + found[0], moment + found[1]
        added = np.zeros(HISTORY)
        added[:known] = solve(gram, moment, _RIDGE)
        return added

    def _error(self, latents: Sequence[Tensor]) -> float:
        return float(squares(self._wrong(latents)).log().mean())

    def _wrong(self, latents: Sequence[Tensor]) -> Tensor:
        """Return what final latents lack: (cases, features)."""
        target = torch.cat([part.recorded[-1] for part in self._parts])
        return (target - torch.cat(list(latents))).flatten(1).double()


@lru_cache(maxsize=1)
def _fitters_on(board: Board) -> dict[tuple[Case, ...], GapFitter]:
    """Return the fitters of a worker, by their cases."""
    return {}


def _asked(
    board: Board,
    cases: tuple[Case, ...],
    told: Callable[[], Sequence[Sequence[Tensor]]],
    method: str,
    *question: Any,
) -> Any:
    """Ask a fitter of a worker, which it makes when it is first asked."""
    known = _fitters_on(board)
    if cases not in known:
        known[cases] = GapFitter(board, cases, recorded=told())
    return getattr(known[cases], method)(*question)
