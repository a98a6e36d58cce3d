"""Fit the weights of forecasts to a schedule, and search schedules whose forecasts are fitted.

Newton's weights follow from the noise levels alone. Fitted ones are what carries the latents best
from one computed step to the next on some prompts: one to three numbers a gap, so that few prompts
settle them. This needs a denoiser that is cached as a whole: then skipping is arithmetic, and a
schedule costs what it computes.

Source: the idea of solvers whose coefficients are learned for a model (S4S, arXiv 2502.17423),
applied to the steps that a schedule skips.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Board, Case, Replay
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.instrument.forecast import weighted_sum
from ditcache_rl.schedules.forecast import Nodes, line_weights, nodes_of, row_of, weights_of
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search.climb import starts
from ditcache_rl.search.space import Row, Space
from ditcache_rl.types import HISTORY, Floats

#: States that are kept: those of a schedule and of the moves around it.
_KEPT = 256
#: Share of a weight's own curvature that is added where the cases leave it open; more in the last
#: fit, in which the effects of weights depend on each other.
_RIDGE, _LAST_RIDGE = 1e-6, 1e-2
#: Change of a weight by which its effect on the final latents is measured.
_NUDGE = 1e-3
#: Squared errors below this count as this.
_TINY = 1e-12


class _State(NamedTuple):
    """Where the cases are at a step that was just computed; all lists are per part."""

    latents: list[Tensor]
    """(rows, ...) before the step."""
    outputs: list[list[Tensor]]
    """What the last computed steps returned, newest first."""
    extra: Floats
    """(gaps so far, HISTORY) what was added to Newton's weights."""


class Rollouts:
    """Carry cases through schedules, one gap between computed steps at a time.

    Args:
        board: Pipeline and steps.
        cases: What is drawn; their conditioning and full trajectories are recorded first.
        finer: The same pipeline with more steps, whose final latents the last fit aims at; None for
            those of the board itself. Every gap is fitted to the board's own latents first.

    Raises:
        UnsupportedModelError: If the denoiser is not cached as one site, or the pipeline's loop
            can't be taken apart.
    """

    def __init__(self, board: Board, cases: Sequence[Case], *, finer: Board | None = None) -> None:
        if board.sites != 1 or not is_whole(board.blocks):
            raise UnsupportedModelError(
                "expected a denoiser that is cached as a whole to fit forecasts, received "
                f"{board.sites} sites of its blocks; set sites = 1 and blocks to the name of the "
                'denoiser, such as "transformer", in the [cache] table'
            )
        parts = [cases[i : i + board.rows] for i in range(0, len(cases), board.rows)]
        self.board, self.steps = board, board.steps
        self._replays = [Replay(board, part) for part in parts]
        self._sigmas = self._replays[0].sigmas
        self._targets = [_trajectory(replay) for replay in self._replays]
        self._goals = (
            [target[-1] for target in self._targets]
            if finer is None
            else [_trajectory(Replay(finer, part))[-1] for part in parts]
        )
        self._states: OrderedDict[Nodes, _State] = OrderedDict()

    def error(self, nodes: Nodes) -> float:
        """Return the mean logarithm of the squared error of the final latents, gaps fitted."""
        return self._error(self._end(self._fitted_states(nodes)[-1], nodes)[0])

    @torch.no_grad()
    def weights(self, nodes: Nodes, *, together: bool = True) -> Floats:
        """Fit the weights of a schedule: (steps, HISTORY), nan at computed steps.

        Every gap is first fitted to the full trajectory at its end, given the gaps before. Then all
        are corrected together by what they do to the final latents, unless that takes too long: it
        costs a rollout per weight.
        """
        end, extra = self._end(self._fitted_states(nodes)[-1], nodes)
        if not together:
            return weights_of(nodes, self._sigmas, extra)
        error, correction = self._error(end), self._correction(nodes, extra)
        for share in (1.0, 0.5):
            tried = extra + share * correction
            end, _ = self._end(self._states_of(nodes, tried)[-1], nodes, tried)
            if self._error(end) < error:
                return weights_of(nodes, self._sigmas, tried)
        return weights_of(nodes, self._sigmas, extra)

    def _correction(self, nodes: Nodes, extra: Floats) -> Floats:
        """Return the Gauss-Newton step of all weights; every case counts by its relative error."""
        places = [
            (gap, place)
            for gap, (node, stop) in enumerate(itertools.pairwise((*nodes, self.steps)))
            for place in range(min(gap + 1, HISTORY))
            if stop - node > 1
        ]
        correction = np.zeros_like(extra)
        if not places:
            return correction
        states = self._states_of(nodes, extra)
        end = self._end(states[-1], nodes, extra)[0]
        wrong, effects = self._wrong(end), []
        for gap, place in places:
            nudged = extra.copy()
            nudged[gap, place] += _NUDGE
            last = self._states_of(nodes, nudged, known=states[: gap + 1])[-1]
            moved = self._end(last, nodes, nudged)[0]
            effects.append((torch.cat(moved) - torch.cat(end)).flatten(1).double() / _NUDGE)
        gram, moment = normal_equations(torch.stack(effects, dim=2), wrong)
        correction[tuple(np.transpose(places))] = _solve(gram, moment, _LAST_RIDGE)
        return correction

    @torch.no_grad()
    def _fitted_states(self, nodes: Nodes) -> list[_State]:
        """Return the state at every node, fitting gap by gap; what is known is not run again."""
        found: list[_State] = []
        for length in range(1, len(nodes) + 1):
            path = nodes[:length]
            if path not in self._states:
                self._states[path] = self._next(found, path, None)
            self._states.move_to_end(path)
            found.append(self._states[path])
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return found

    def _states_of(
        self,
        nodes: Nodes,
        extra: Floats,
        *,
        known: Sequence[_State] = (),
    ) -> list[_State]:
        """Return the state at every node under given weights; the first ones may be known."""
        found = list(known)
        for length in range(len(found) + 1, len(nodes) + 1):
            found.append(self._next(found, nodes[:length], extra))
        return found

    def _next(
        self,
        before: Sequence[_State],
        path: Nodes,
        extra: Floats | None,
    ) -> _State:
        """Return the state at the last step of a path, given the states at those before."""
        if before:
            latents, extra = self._cross(before[-1], path[:-1], path[-1], extra)
            older = before[-1].outputs
        else:
            latents = [replay.start() for replay in self._replays]
            older, extra = [[] for _ in latents], np.zeros((0, HISTORY))
        outputs = [
            [replay.compute(path[-1], x)[0], *past[: HISTORY - 1]]
            for replay, x, past in zip(self._replays, latents, older, strict=True)
        ]
        return _State(latents, outputs, extra)

    def _end(
        self, last: _State, nodes: Nodes, extra: Floats | None = None
    ) -> tuple[list[Tensor], Floats]:
        """Return the final latents, and what was added to the weights of every gap."""
        return self._cross(last, nodes, self.steps, extra)

    @torch.no_grad()
    def _cross(
        self, state: _State, path: Nodes, stop: int, extra: Floats | None
    ) -> tuple[list[Tensor], Floats]:
        """Estimate the steps of the gap after a path; without given weights they are fitted."""
        known = path[::-1][:HISTORY]
        parts = list(zip(self._replays, state.latents, state.outputs, strict=True))
        added = np.zeros(HISTORY)
        if stop - known[0] > 1:
            added = extra[len(path) - 1] if extra is not None else self._fit(parts, path, stop)
        reached = [self._skip(part, known, stop, added) for part in parts]
        return reached, np.vstack([state.extra, added])

    def _fit(
        self,
        parts: Sequence[tuple[Replay, Tensor, list[Tensor]]],
        path: Nodes,
        stop: int,
    ) -> Floats:
        """Return what to add to the weights of a gap so that it ends nearest to full compute.

        Every case counts by its relative error, or the hard ones would settle the fit alone.
        """
        known = path[::-1][:HISTORY]
        gram, moment = np.zeros((len(known),) * 2), np.zeros(len(known))
        for part, target in zip(parts, self._targets, strict=True):
            start = self._skip(part, known, stop, np.zeros(HISTORY))
            wrong = (target[stop] - start).flatten(1).double()
            effect = torch.stack(
                [
                    (self._skip(part, known, stop, unit) - start).flatten(1).double()
                    for unit in np.eye(HISTORY)[: len(known)]
                ],
                dim=2,
            )
            found = normal_equations(effect, wrong)
            gram, moment = gram + found[0], moment + found[1]
        added = np.zeros(HISTORY)
        added[: len(known)] = _solve(gram, moment, _RIDGE)
        return added

    def _skip(
        self,
        part: tuple[Replay, Tensor, list[Tensor]],
        known: Sequence[int],
        stop: int,
        added: Floats,
    ) -> Tensor:
        """Return the latents of a part at the end of a gap."""
        replay, latents, outputs = part
        latents = replay.advance(known[0], outputs[0], latents)
        for step in range(known[0] + 1, stop):
            weights = line_weights(known, self._sigmas, step) + added
            latents = replay.advance(step, weighted_sum(outputs, weights[None]), latents)
        return latents

    def _error(self, latents: Sequence[Tensor]) -> float:
        return float(_squares(self._wrong(latents)).log().mean())

    def _wrong(self, latents: Sequence[Tensor]) -> Tensor:
        """Return what final latents lack: (cases, features)."""
        return (torch.cat(self._goals) - torch.cat(list(latents))).flatten(1).double()


def _squares(wrong: Tensor) -> Tensor:
    return wrong.square().mean(dim=1).clamp_min(_TINY)


def normal_equations(effect: Tensor, wrong: Tensor) -> tuple[Floats, Floats]:
    """Return both sides of normal equations in which every case counts by its relative error.

    Args:
        effect: (cases, features, unknowns) what a unit of each unknown does.
        wrong: (cases, features) what is lacking.
    """
    share = 1 / _squares(wrong)
    gram = torch.einsum("rdk,rdl,r->kl", effect, effect, share)
    moment = torch.einsum("rdk,rd,r->k", effect, wrong, share)
    return gram.cpu().numpy(), moment.cpu().numpy()


@torch.no_grad()
def _trajectory(replay: Replay) -> list[Tensor]:
    """Return the latents of full compute before every step and after the last one."""
    latents = replay.recorded()
    last = len(latents) - 1
    output, _ = replay.compute(last, latents[last])
    # Not the last step: solvers of a higher order end with one that has no memory.
    middle = len(latents) // 2
    once, _, again = (replay.advance(middle, sign * output, latents[middle]) for sign in (1, -1, 1))
    if not torch.equal(once, again):
        raise UnsupportedModelError(
            "expected a sampler whose steps depend on nothing but latents and output to fit "
            "forecasts, received one that remembers its last steps or draws noise"
        )
    return [*latents, replay.advance(last, output, latents[last])]


def search_fitted_plan(
    rollouts: Rollouts,
    cases: Sequence[Case],
    *,
    budgets: Sequence[int],
    evaluations: int,
    rng: np.random.Generator,
    start: Plan | None = None,
    propose: Callable[[Space, int], Sequence[Row]] | None = None,
    on_budget: Callable[[int, float], None] | None = None,
    before: Row | None = None,
    settle: Rollouts | None = None,
    together: bool = True,
) -> Plan:
    """Search the schedule of every budget together with the weights of its forecasts.

    Budgets are searched in ascending order; each starts from spaced schedules and from the best
    schedule of the budget before with one more computed step.

    Args:
        rollouts: What scores schedules.
        cases: What the images of the best are scored on.
        budgets: Computed steps, each at least 1.
        evaluations: Schedules per budget that are scored by their latents; 0 for the best start.
        rng: Orders the moves.
        start: Schedules to start from in place of spaced ones, where it has any.
        propose: Names further schedules of a budget to start from.
        on_budget: Called with budget and mean PSNR when a budget is done.
        before: A schedule that computes less, for the first budget to start from too.
        settle: What the weights of the best are fitted on; None for what scored it.
        together: As in `Rollouts.weights`.
    """
    board, plan = rollouts.board, Plan.empty(rollouts.steps, rollouts.steps)
    space = Space(rollouts.steps, 1)
    for budget in sorted(budgets):
        first = starts(space, budget, start=start, propose=propose, before=before)
        nodes = climb_nodes(
            rollouts, [nodes_of(row) for row in first], evaluations=evaluations, rng=rng
        )
        before = plan.patterns[budget] = row_of(nodes, rollouts.steps)
        weights = (settle or rollouts).weights(nodes, together=together)
        plan.weights[budget] = weights
        count = len(cases)
        scored = board.score(cases, [space.modes(before)] * count, [weights] * count)
        plan.quality[budget] = scored.psnr_db.mean(), scored.ssim.mean()
        if on_budget is not None:
            on_budget(budget, float(plan.quality[budget, 0]))
    return plan


def climb_nodes(
    rollouts: Rollouts,
    first: Sequence[Nodes],
    *,
    evaluations: int,
    rng: np.random.Generator,
    on_evaluation: Callable[[Nodes, float], None] = lambda nodes, error: None,
) -> Nodes:
    """Climb to the schedule with the least error, moving one or two computed steps at a time.

    Args:
        rollouts: What scores schedules.
        first: Where to start; as many computed steps each.
        evaluations: Schedules to score, the first ones included.
        rng: Orders the moves.
        on_evaluation: Called after each, with its computed steps and its error.
    """
    scores: dict[Nodes, float] = {}

    def score(nodes: Nodes) -> float:
        if nodes not in scores:
            scores[nodes] = rollouts.error(nodes)
            on_evaluation(nodes, scores[nodes])
        return scores[nodes]

    best = min(dict.fromkeys(first), key=score)
    moves = _moves(best, rollouts.steps, rng)
    while len(scores) < evaluations:
        moved = next((nodes for nodes in moves if nodes not in scores), None)
        if moved is None:
            break  # nothing near is better
        if score(moved) < scores[best]:
            best, moves = moved, _moves(moved, rollouts.steps, rng)
    return best


def _moves(nodes: Nodes, steps: int, rng: np.random.Generator) -> Iterator[Nodes]:
    """List the schedules nearby, in random order, the nearest first."""
    places = range(1, len(nodes))
    near = [((place, change),) for place in places for change in (-1, 1)]
    far = [((place, change),) for place in places for change in (-2, 2)]
    pairs = [(a, b) for (a,), (b,) in itertools.combinations(near, 2)]
    for group in (near, far, pairs):
        for index in rng.permutation(len(group)):
            moved = list(nodes)
            for place, change in group[index]:
                moved[place] += change
            if moved[-1] < steps and all(a < b for a, b in itertools.pairwise(moved)):
                yield tuple(moved)


def _solve(gram: Floats, moment: Floats, ridge: float) -> Floats:
    """Solve the normal equations, each unknown damped by a share of its own curvature."""
    return np.asarray(np.linalg.solve(gram + np.diag(ridge * np.diag(gram) + _TINY), moment))
