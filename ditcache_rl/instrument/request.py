"""One pipeline call: its steps, decisions and branches. What it remembers dies with the call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, planned_modes, start_over, target_of
from ditcache_rl.instrument.blocks import Span
from ditcache_rl.instrument.branches import Branches, CallFacts
from ditcache_rl.instrument.clock import Clock
from ditcache_rl.instrument.context import running
from ditcache_rl.instrument.freshness import Freshness
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.instrument.log import RequestLog
from ditcache_rl.instrument.memory import RequestMemory
from ditcache_rl.instrument.notes import REPEATED, UNHEARD, UNSET
from ditcache_rl.instrument.ranks import Ranks
from ditcache_rl.instrument.state import SpanState
from ditcache_rl.instrument.taps import Tap
from ditcache_rl.types import Decision, Mode, Modes, RunInfo, StepInfo

_IDS = itertools.count()
#: Branches that are remembered; a pipeline with more of them has other conditioning at each step.
_MOST_BRANCHES = 64


class Request:
    """One call of the pipeline under a controller.

    Args:
        controller: Its own copy.
        cache: Where residuals are kept.
        scheduler: Of the pipeline.
        sites: Parts of each block stack.
        rows: Samples of the request, where the call tells; else the first batch counts.
        max_bytes: Most bytes that it may keep; None for no limit.
        admitted: False computes everything and keeps nothing.
        ranks: Other processes that must decide the same.
        changes: Looks at the model, closely where it is told to, and counts how often it has
            changed; asked at every step that serves or keeps anything.
    """

    def __init__(
        self,
        controller: Controller,
        cache: TieredCache,
        scheduler: Any,
        sites: int,
        *,
        rows: int | None = None,
        max_bytes: int | None = None,
        admitted: bool = True,
        ranks: Ranks | None = None,
        changes: Callable[[bool], int] = lambda closely: 0,
    ) -> None:
        self.id = next(_IDS)
        self.controller, self.cache = controller, cache
        #: One log per run: most have one, and none where the pipeline sets no timesteps.
        self.logs: list[RequestLog] = []
        #: The denoisers that belong to the request, by their taps.
        self.layouts: dict[Tap, Layout] = {}
        #: The call of the denoiser is left alone: no decision, nothing recorded.
        self.off = True
        #: The span that is being run, owned by its blocks.
        self.active: Any = None
        #: Layout of the denoiser that is being run.
        self.layout: Layout | None = None
        #: Streams at the entrance of the stack, set by the first probe block; empty without probes.
        self.stack_input: tuple[Tensor, ...] = ()
        #: Branches in the batch of the present call, one after the other, and rows of each.
        self.chunks: list[int] = []
        self.rows = 0
        #: Code that is not of the request has run since the model was looked at.
        self.visited = False
        #: What whoever attached should know, each once.
        self.notes: dict[str, None] = {}
        self._expected_rows = rows
        self._admitted, self._ranks = admitted, ranks
        self._freshness = Freshness(changes)
        self._clock, self._sites, self._step = Clock(scheduler), sites, -1
        self._run: RunInfo | None = None
        #: No call was decided about, and none was to be left alone.
        self._unheard = True
        self._decision: Decision | None = None
        self._decides = False
        self._last_output: Tensor | None = None
        self._branches, self._memory = Branches(), RequestMemory(cache, self.id, max_bytes)
        self._latents: Tensor | None = None

    @contextmanager
    def current(self) -> Iterator[Request]:
        """Be the request of this thread or task; free the cache afterwards, whatever happens."""
        self._began = time.perf_counter()
        try:
            with running(self):
                yield self
            if self._unheard:
                self.notes[UNHEARD if self._clock.started() else UNSET] = None
        finally:
            self._memory.forget()
            self._end_step()
            self._branches.clear()
            self._last_output = self._latents = self.active = self.layout = None
            self.off = True
            for log in self.logs:
                log.end(time.perf_counter() - self._began)

    def begin_call(self, layout: Layout, facts: CallFacts) -> None:
        """Note a call of a denoiser; `off` tells afterwards whether it is left alone."""
        self.layout, self.active, self.stack_input = layout, None, ()
        self._decides, self.off, self.chunks = False, True, [0]
        if not self._clock.started():  # a look at a condition, before there are steps
            return
        rows = len(facts.latents)
        step, began = self._clock.read(facts.timestep)
        if began:
            self._start_run(rows)
        run = self._run
        assert run is not None
        other_step = step != self._step
        if other_step:
            self._end_step()
            self._step, self._decision = step, None
            self._branches.begin_step()
            self._memory.begin_step()
        self._latents = facts.latents
        if not 0 <= step < run.num_inference_steps or rows % run.rows:
            return
        if self._memory.idle[step] or not self._admitted:  # it serves and keeps nothing
            self.leave_alone()
            if self._memory.idle[step]:
                self.cache.skip_dead_writes(len(layout.spans))
            return
        closely, self.visited = self.visited, False
        if (other_step or closely) and self._freshness.other_model(closely=closely):
            self._memory.forget()
            self._last_output = None
        self.rows = run.rows
        self.chunks = self._branches.numbers(
            (layout.key, facts.switches), facts.conditioning, facts.latents, run.rows
        )
        self._branches.forget(self._memory.attend(self.chunks))
        self.logs[-1].branches = max(self.logs[-1].branches, self._branches.called)
        repeated = self._branches.repeated.intersection(self.chunks)
        if repeated:
            self._memory.drop(repeated)
            self.notes[REPEATED] = None
        self.off = False
        if repeated or max(self.chunks) > _MOST_BRANCHES:
            self.leave_alone()

    def leave_alone(self) -> None:
        """Have the call of the denoiser compute everything, and keep nothing of it."""
        self.off, self._unheard = True, False

    def end_call(self, output: Any) -> None:
        """Note what a denoiser returned."""
        if isinstance(output, Tensor):
            if not self.off:
                self._last_output = self._last_rows(output)
            if self._latents is not None:
                self.logs[-1].note_output(self._step, self._latents, output, self.chunks[-1])
        self.off, self.active, self.layout, self.stack_input = True, None, None, ()

    def decide(
        self,
        hidden_states: Tensor,
        probe_residual: Tensor | None,
        modulated: Callable[[], Tensor],
    ) -> Decision:
        """Ask the controller, once per step: branches share the decision."""
        run = self._run
        assert run is not None
        assert self._latents is not None
        if self._decision is None:
            self._decides = True
            latents, hidden_states = map(self._last_rows, (self._latents, hidden_states))
            probe = None if probe_residual is None else self._last_rows(probe_residual)
            anew = self._freshness.is_lost(latents, hidden_states, probe, self._last_output)
            if anew and planned_modes(self.controller) is None:
                self._memory.forget()
                self._last_output = None
                self._freshness.forget_last()
                start_over(self.controller, run)
            info = StepInfo(
                run=run,
                step=self._step,
                sigma=float(run.sigmas[self._step]),
                sigma_next=float(run.sigmas[self._step + 1]),
                latents=latents,
                hidden_states=hidden_states,
                probe_residual=probe,
                modulated=lambda: self._last_rows(modulated()),
                last_output=self._last_output,
                history=self._memory.site_histories(self._present, self.chunks[-1]),
                device_free_share=self.cache.device.free_share,
                anew=anew,
                memory=lambda: self._memory.views(self._present, self.chunks[-1]),
                error=self.logs[-1].error(self._step - 2),
            )
            decision = self.controller.decide(info)
            self._unheard = False
            self._decision = decision if self._ranks is None else self._ranks.share(decision)
        return self._decision

    def states(self, span: Span, shapes: tuple[Any, ...]) -> list[SpanState]:
        """Return what is known of a span on every branch of the present batch.

        Args:
            span: The span.
            shapes: Of the streams now; a history of others is forgotten.
        """
        layout = self._present
        return [self._memory.state(layout, branch, span, shapes) for branch in self.chunks]

    def effective(self, span: Span, states: Sequence[SpanState], modes: Modes) -> Modes:
        """Turn the modes wished for a site into those that its histories allow, and log them.

        Args:
            span: What is run.
            states: Of the branches in the batch.
            modes: (rows,) wished.
        """
        allowed = modes
        for state in states:
            allowed = (
                state.history.effective(allowed, self._step)
                if state.exits
                else np.zeros_like(modes)
            )
        if self._ranks is not None:
            allowed = self._ranks.least(allowed)
        self.logs[-1].note(self._step, span.site, allowed, self.chunks, decided=self._decides)
        assert self._decision is not None
        self._memory.look_ahead(self._present, self.chunks, span, self._step, self._decision.modes)
        return allowed

    def estimate(self, states: Sequence[SpanState], modes: Modes) -> Tensor:
        """Return the residual of a span without computing it: (rows of the batch, features)."""
        assert self._decision is not None
        fitted = self._decision.fitted
        parts = [state.history.estimate(modes, self._sigma, fitted) for state in states]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def record(
        self,
        states: Sequence[SpanState],
        residual: Tensor,
        rows: NDArray[np.int64],
        tiers: NDArray[np.int8],
    ) -> None:
        """Remember what some rows computed of a span; see `RequestMemory.record`."""
        self._memory.record(states, residual, rows, tiers, step=self._step, sigma=self._sigma)
        self.logs[-1].note_bytes(self.cache.used_bytes)

    def _start_run(self, rows: int) -> None:
        """Begin a run: the first, or the next pass, chunk or stage of the pipeline."""
        self._end_step()
        if rows % (self._expected_rows or rows) == 0:
            rows = self._expected_rows or rows
        self._branches.clear()
        run = RunInfo(self._clock.steps, self._clock.sigmas(), rows, self._sites, self._began)
        self._run, self._step, self._decision, self._last_output = run, -1, None, None
        self._freshness.begin()
        self.logs.append(RequestLog(run, target_of(self.controller)))
        self.controller.reset(run)
        self._memory.begin(rows, planned_modes(self.controller))

    def _end_step(self) -> None:
        """Note that calls that were left alone have computed."""
        if self._decision is None and 0 <= self._step < len(self.logs[-1].modes):
            modes = self.logs[-1].modes[self._step]
            modes[modes < 0] = Mode.COMPUTE

    @property
    def _sigma(self) -> float:
        assert self._run is not None
        return float(self._run.sigmas[self._step])

    @property
    def _present(self) -> Layout:
        """Layout of the denoiser that is being run."""
        assert self.layout is not None
        return self.layout

    def _last_rows(self, tensor: Tensor) -> Tensor:
        """Return the rows of the last branch: diffusers puts the conditioned one there."""
        if len(self.chunks) < 2 or len(tensor) % len(self.chunks):
            return tensor
        return tensor[-(len(tensor) // len(self.chunks)) :]
