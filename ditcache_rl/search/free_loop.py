"""Follow a solver in a pipeline's own loop, from any of its steps on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench import Case
from ditcache_rl.bench.draw import called
from ditcache_rl.bench.loop import LoopNotes, hand_on
from ditcache_rl.bench.outputs import blank
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.clock import noise_levels
from ditcache_rl.metrics import psnr_db
from ditcache_rl.search.free import FreeSolver, Solver
from ditcache_rl.solver.heard import branches_of, output_of
from ditcache_rl.types import Floats


class FreeRun(NamedTuple):
    """What a solver did to some cases."""

    latents: list[Tensor]
    """(cases, ...) before every step, and at the end."""
    outputs: list[Tensor]
    """(cases, ...) of the denoiser at every step, guided."""
    branches: list[Tensor | None]
    """(B, cases, ...) of what each output was guided from; None where that is of another shape."""
    images: Tensor | None = None
    """(cases, 3, H, W) in [0, 1], float32 on the CPU, if they were asked for."""

    @property
    def decoded(self) -> Tensor:
        """The images, of a run that was asked for them."""
        assert self.images is not None, "decode=True makes them"
        return self.images

    def advance(self, solver: Solver, place: int) -> None:
        """Let a solver take the latents of a step to the next one; its output must be there."""
        outputs = self.used(solver.by_branch)[::-1]
        latents = self.latents[place]
        self.latents.append(solver.advance(place, latents, outputs).to(latents.dtype))

    def used(self, by_branch: bool) -> list[Tensor]:
        """Return the outputs of the steps, or their branches, oldest first.

        Raises:
            UnsupportedModelError: If branches are wanted that can't be told.
        """
        if not by_branch:
            return self.outputs
        told = [one for one in self.branches if one is not None]
        if len(told) < len(self.branches):
            raise UnsupportedModelError(
                "expected guidance branches of the shape of the latents to weigh them, received "
                "others; fit outputs as guidance leaves them"
            )
        return told

    def first(self, steps: int) -> FreeRun:
        """Return as much of it as there is before a step."""
        return FreeRun(self.latents[:steps], self.outputs[:steps], self.branches[:steps])


class FreeLoop:
    """Carries cases through the loop of a pipeline's own call, from any step on.

    Args:
        pipe: Of one denoiser, with a flow-matching sampler.
        cases: Drawn together in one call.
        steps: Of full compute.
        call: Further arguments of the pipeline's call.

    Attributes:
        full: Full compute, on the CPU.
        target: (cases, ...) final latents of full compute.
        sigmas: (steps + 1,) noise levels of full compute.
        computes: Denoiser outputs of a case that were computed since.

    Raises:
        UnsupportedModelError: If the pipeline is of another kind.
    """

    def __init__(
        self, pipe: Any, cases: Sequence[Case], *, steps: int, call: Mapping[str, Any]
    ) -> None:
        denoisers = list(denoisers_of(pipe).values())
        if len(denoisers) != 1 or "FlowMatch" not in type(pipe.scheduler).__name__:
            raise UnsupportedModelError(
                "expected a pipeline of one denoiser and a flow-matching sampler to fit times, "
                f"received {len(denoisers)} and {type(pipe.scheduler).__name__}"
            )
        self.pipe, self.cases, self.computes = pipe, list(cases), 0
        self._call, (self._denoiser,) = dict(call), denoisers
        notes = LoopNotes()
        with hand_on(pipe, self._denoiser, notes) as scheduler:
            images = self._draw(steps)
            self.sigmas = noise_levels(scheduler)
        first = notes.steps[0]
        self.target, self._start = notes.steps[-1].moved, first.latents
        self.full = FreeRun([self._start.cpu()], [], [], images)
        for _, output, moved, returned in notes.steps:
            branches = branches_of([output_of(one) for one in returned], output)
            self.full.latents.append(moved.cpu())
            self.full.outputs.append(output.cpu())
            self.full.branches.append(None if branches is None else branches.cpu())
        self._blanks = [blank(one, len(cases), len(cases)) for one in first.returned]

    @torch.no_grad()
    def run(
        self,
        solver: Solver,
        *,
        known: FreeRun | None = None,
        first: int = 0,
        decode: bool = False,
    ) -> FreeRun:
        """Follow a solver.

        Args:
            solver: What is followed.
            known: What one that tells the same times before `first` did, and differs in nothing
                before its update of step `first` - 1.
            first: Step from which on the denoiser is called.
            decode: Whether images are wanted.
        """
        begun = FreeRun([self._start], [], [])
        if known is not None and first:
            begun = known.first(first)
            begun.advance(solver, first - 1)
        if first == len(solver.times) and not decode:
            return begun
        hand = _Hand(solver, begun, self._blanks, leaves=not decode)
        images = None
        told = FreeSolver(
            solver.times, np.ones(len(solver.times)), np.zeros((len(solver.times), 0))
        )
        with suppress(_Done), told.applied(self.pipe), hand_on(self.pipe, self._denoiser, hand):
            images = self._draw(len(solver.times))
        self.computes += len(solver.times) - first
        return begun._replace(images=images)

    def psnr(self, solver: Solver) -> Floats:
        """Compare images under a solver with those of full compute: (cases,) dB."""
        return psnr_db(self.run(solver, decode=True).decoded, self.full.decoded)

    @classmethod
    def of(
        cls, pipe: Any, cases: Sequence[Case], *, steps: int, call: Mapping[str, Any], rows: int
    ) -> list[Self]:
        """Make one for so many cases at a time; other arguments are those of the class."""
        parts = [cases[start : start + rows] for start in range(0, len(cases), rows)]
        return [cls(pipe, part, steps=steps, call=call) for part in parts]

    def levels(self, steps: int) -> Floats:
        """Return the noise levels of so many steps of the pipeline's own sampler: (steps + 1,)."""
        hand = _Hand(
            FreeSolver(np.zeros(steps), np.ones(steps), np.zeros((steps, 0))),
            FreeRun([self._start] * (steps + 1), [self._start] * steps, [None] * steps),
            self._blanks,
            leaves=True,
        )
        with hand_on(self.pipe, self._denoiser, hand) as scheduler, suppress(_Done):
            self._draw(steps)
        return noise_levels(scheduler)

    def _draw(self, steps: int) -> Tensor:
        images = called(
            self.pipe,
            [case.prompt for case in self.cases],
            generator=[torch.Generator().manual_seed(case.seed) for case in self.cases],
            num_inference_steps=steps,
            call=self._call,
        )
        return images.float().cpu()


class _Done(BaseException):
    """Leaves a pipeline's call before it decodes; nobody else raises or catches it."""


class _Hand:
    """Follows a solver from where a trace ends."""

    def __init__(
        self, solver: Solver, trace: FreeRun, blanks: Sequence[Any], *, leaves: bool
    ) -> None:
        self._leaves, self._returned = leaves, list[Tensor]()
        self._solver, self._trace, self._blanks = solver, trace, blanks
        self._first, self._step, self._calls = len(trace.outputs), 0, 0

    def call(self, plain: Callable[[], Any]) -> Any:
        """Compute what is not known."""
        place, self._calls = self._calls, self._calls + 1
        if self._step < self._first:
            return self._blanks[place]
        returned = plain()
        self._returned.append(output_of(returned).clone())
        return returned

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Take the step of the solver."""
        step, trace = self._step, self._trace
        self._step, self._calls = step + 1, 0
        idle()
        if step >= self._first:
            trace.outputs.append(output.clone())
            trace.branches.append(branches_of(self._returned, output))
            self._returned.clear()
            trace.advance(self._solver, step)
        if self._leaves and self._step == len(self._solver.times):
            raise _Done
        return trace.latents[self._step]
