"""Solvers whose times lie anywhere, run in a pipeline's own loop.

The K times that the denoiser is told, what latents are multiplied with, and what outputs are
weighed with are numbers of their own; none follows from another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

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
from ditcache_rl.schedules.collapse import Collapsed, updated
from ditcache_rl.solver.collapsing import Collapsing
from ditcache_rl.types import HISTORY, Floats


class FreeSolver(NamedTuple):
    """A linear multistep method of K steps."""

    times: Floats
    """(K,) noise levels that the denoiser is told."""
    keeps: Floats
    """(K,) what the latents are multiplied with."""
    updates: Floats
    """(K, H) what the last outputs are multiplied with and added, newest first; zero where there
    are none yet."""

    @classmethod
    def of(cls, collapsed: Collapsed, history: int) -> FreeSolver:
        """Take a collapsed schedule, with room for so many outputs."""
        updates = np.zeros((len(collapsed.path), history))
        shared = min(history, collapsed.updates.shape[1])
        updates[:, :shared] = collapsed.updates[:, :shared]
        return cls(collapsed.times, collapsed.keeps, updates)

    def within(self, collapsed: Collapsed) -> Collapsed:
        """Return a collapsed schedule that does the same, where HISTORY outputs are enough.

        Args:
            collapsed: Of as many computed steps; whose they are.
        """
        updates = self.with_history(HISTORY).updates
        told = collapsed.told if np.array_equal(self.times, collapsed.times) else self.times
        return collapsed._replace(keeps=self.keeps, updates=updates, told=told)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> FreeSolver:
        """Invert `write`."""
        return cls(*(np.array(entry[name]) for name in cls._fields))

    def with_history(self, history: int) -> FreeSolver:
        """Return the same with room for so many outputs, at least as many as now."""
        wider = ((0, 0), (0, history - self.updates.shape[1]))
        return self._replace(updates=np.pad(self.updates, wider))

    def write(self) -> dict[str, Any]:
        """Write it as a file of JSON holds it."""
        return {name: value.tolist() for name, value in self._asdict().items()}

    def advance(self, place: int, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Take the latents to the next step.

        Args:
            place: Number of the step.
            latents: Before it; not modified.
            outputs: Of the steps so far, newest last; of the shape of the latents.
        """
        newest_first, factors = reversed(outputs), self.updates[place]
        moved = updated(latents, newest_first, keep=self.keeps[place], factors=factors)
        return moved.to(latents.dtype)

    def scheduler(self, plain: Any) -> Any:
        """Derive a sampler from one of flow matching."""
        levels, path = np.append(self.times, 0.0), tuple(range(len(self.times)))
        collapsed = Collapsed(levels, path, self.keeps, self.updates, told=self.times)
        kind: Any = type(plain)

        class FreeTimes(Collapsing, kind):  # type: ignore[misc]
            """Tells the denoiser the times of a solver, and follows it."""

            def _collapse(self) -> Collapsed:
                return collapsed

        return FreeTimes.from_config(plain.config)

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[None]:
        """Put it in the place of a pipeline's scheduler, for as long as it is entered."""
        plain, place = pipe.scheduler, vars(pipe)
        # Not by assignment, which diffusers notes in the pipeline's config.
        place["scheduler"] = self.scheduler(plain)
        try:
            yield
        finally:
            place["scheduler"] = plain


class FreeRun(NamedTuple):
    """What a solver did to some cases."""

    latents: list[Tensor]
    """(cases, ...) before every step, and after the last one."""
    outputs: list[Tensor]
    """(cases, ...) of the denoiser at every step, guided."""
    images: Tensor | None
    """(cases, 3, H, W) in [0, 1], float32 on the CPU, if they were asked for."""

    @property
    def decoded(self) -> Tensor:
        """The images, of a run that was asked for them."""
        assert self.images is not None, "decode=True makes them"
        return self.images


class FreeLoop:
    """Carries cases through the loop of a pipeline's own call, from any step on.

    Args:
        pipe: Of one denoiser, with a flow-matching sampler.
        cases: Drawn together in one call.
        steps: Of full compute.
        call: Further arguments of the pipeline's call.

    Attributes:
        target: (cases, ...) final latents of full compute.
        images: (cases, 3, H, W) what they are decoded to, float32 on the CPU.
        sigmas: (steps + 1,) noise levels of full compute.
        computes: Denoiser outputs of a case that were computed since.
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
            self.images = self._draw(steps)
            self.sigmas = noise_levels(scheduler)
        first = notes.steps[0]
        self.target, self._start = notes.steps[-1].moved, first.latents
        self._blanks = [blank(one, len(cases), len(cases)) for one in first.returned]

    @torch.no_grad()
    def run(
        self,
        solver: FreeSolver,
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
        begun = FreeRun([self._start], [], None)
        if known is not None and first:
            begun = FreeRun(known.latents[:first], known.outputs[:first], None)
            begun.latents.append(solver.advance(first - 1, begun.latents[-1], begun.outputs))
        if first == len(solver.times) and not decode:
            return begun
        hand = _Hand(solver, begun, self._blanks, leaves=not decode)
        images = None
        with suppress(_Done), solver.applied(self.pipe), hand_on(self.pipe, self._denoiser, hand):
            images = self._draw(len(solver.times))
        self.computes += len(solver.times) - first
        return begun._replace(images=images)

    def psnr(self, solver: FreeSolver) -> Floats:
        """Compare images under a solver with those of full compute: (cases,) dB."""
        return psnr_db(self.run(solver, decode=True).decoded, self.images)

    def levels(self, steps: int) -> Floats:
        """Return the noise levels of so many steps of the pipeline's own sampler: (steps + 1,)."""
        hand = _Hand(
            FreeSolver(np.zeros(steps), np.ones(steps), np.zeros((steps, 0))),
            FreeRun([self._start] * (steps + 1), [self._start] * steps, None),
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
        self, solver: FreeSolver, trace: FreeRun, blanks: Sequence[Any], *, leaves: bool
    ) -> None:
        self._leaves = leaves
        self._solver, self._trace, self._blanks = solver, trace, blanks
        self._first, self._step, self._calls = len(trace.outputs), 0, 0

    def call(self, plain: Callable[[], Any]) -> Any:
        """Compute what is not known."""
        place, self._calls = self._calls, self._calls + 1
        return self._blanks[place] if self._step < self._first else plain()

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Take the step of the solver."""
        step, trace = self._step, self._trace
        self._step, self._calls = step + 1, 0
        idle()
        if step >= self._first:
            trace.outputs.append(output.clone())
            trace.latents.append(self._solver.advance(step, trace.latents[step], trace.outputs))
        if self._leaves and self._step == len(self._solver.times):
            raise _Done
        return trace.latents[self._step]
