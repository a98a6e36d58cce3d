"""Take the denoising loop of a pipeline apart: one step at a time, for rows of one's own choice.

A search that branches needs what a pipeline call does not offer: to go on from the same latents in
two ways. The steps stay those of the pipeline: its own loop brings latents to the denoiser and what
that returns to the scheduler. What decides and caches for users is the runner, not this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ditcache_rl.bench.board import Board
from ditcache_rl.bench.draw import Case
from ditcache_rl.bench.loop import LoopNotes, LoopStep, LoopVisit, hand_on
from ditcache_rl.bench.outputs import apart, blank, by_row, filled, tensors_of
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import is_attached
from ditcache_rl.instrument.blocks import denoisers_of, is_whole
from ditcache_rl.instrument.clock import distinct, noise_levels
from ditcache_rl.instrument.exits import flatten
from ditcache_rl.instrument.stack_taps import StackTap, known_blocks, tapped_stack
from ditcache_rl.types import Floats


class Replay:
    """The loop of one pipeline call, with the block stack, or the whole denoiser, as one site.

    Every step is a call of the pipeline that runs idle up to it: guidance, in one batch or in
    several calls, is the pipeline's own. Entering taps the blocks of the denoiser, leaving gives
    the taps up.

    Args:
        board: Pipeline and steps.
        cases: One per row of the recorded call.

    Attributes:
        rows: Of the recorded call.
        whole: What the denoiser returns is what is cached.
        linear: What is guided is the same sum of what branches return at every step, so that it is
            estimated itself. Otherwise the outputs of all branches are.

    Raises:
        StateError: If the pipeline is attached.
        UnsupportedModelError: If the pipeline has several denoisers, calls its scheduler otherwise
            than once per step, or its blocks are not known by name.
    """

    def __init__(self, board: Board, cases: Sequence[Case]) -> None:
        if is_attached(board.pipe):
            raise StateError(
                "expected a plain pipeline to replay, received one that is attached; detach it"
            )
        denoisers = denoisers_of(board.pipe)
        if len(denoisers) != 1:
            raise UnsupportedModelError(
                f"expected a pipeline of one denoiser to replay, received {', '.join(denoisers)}; "
                "choose a search without it"
            )
        self._board, self._cases, self.rows = board, list(cases), len(cases)
        (self._denoiser,) = denoisers.values()
        self.whole = is_whole(board.blocks)
        self._blocks = (
            () if self.whole else known_blocks(self._denoiser, "choose a search without it")
        )
        self._tapped = ExitStack()
        #: What stands in for the stack at the calls under way, (branches × rows, features) each;
        #: empty to compute it.
        self.stand_ins: list[Tensor] = []
        #: What the stack added at the calls under way, likewise.
        self.residuals: list[Tensor] = []
        self.inputs: tuple[Tensor, ...] = ()
        #: Which streams come out of the stack: the last block of some models drops the prompt.
        self.leaving: list[bool] = []
        notes = _ReplayNotes(self)
        self._steps = self._record(notes)
        self._blanks: dict[int, list[list[Any]]] = {}
        # Of one row, and alike at every step.
        alone = tensors_of(self._blanks_of(1)[0]) if self.whole else notes.residuals
        self._like = [tensor.shape for tensor in alone]
        self.linear = self.whole and self._is_linear()
        # Of what the denoiser returned, the form is all that is needed from here on.
        self._steps = [
            known._replace(returned=tuple(own))
            for known, own in zip(self._steps, self._blanks_of(self.rows), strict=True)
        ]

    def __enter__(self) -> Self:
        """Tap the blocks."""
        if self._blocks:
            self._tapped.enter_context(tapped_stack(self._blocks, _ReplayTap, self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore."""
        self._tapped.close()
        self.stand_ins, self.residuals, self.inputs = [], [], ()

    def of_stack(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Return those streams that come out of the stack."""
        return [one for one, leaves in zip(streams, self.leaving, strict=True) if leaves]

    @property
    def sigmas(self) -> Floats:
        """Noise levels, pairwise different: (steps + 1,)."""
        return distinct(noise_levels(self._scheduler))

    def start(self) -> Tensor:
        """Return the latents before the first step: (rows, ...)."""
        return self._steps[0].latents

    def recorded(self) -> list[Tensor]:
        """Return the latents of the recorded call before every step, and after the last one."""
        return [*(step.latents for step in self._steps), self._steps[-1].moved]

    def outputs(self) -> list[Tensor]:
        """Return what the scheduler was given at every step of the recorded call."""
        return [step.output for step in self._steps]

    def compute(
        self, step: int, latents: Tensor, *, cases: Sequence[Case] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the denoiser: its output, guided, and what is cached of it (rows, features).

        Args:
            step: Where in the loop.
            latents: (rows, ...) of the recorded cases, or any number of rows of a single one; those
                that a call begins with at the first step.
            cases: That the latents belong to, be they recorded or not; all that are, in their
                order.
        """
        self.stand_ins, self.residuals = [], []
        visit = self._visit(step, latents, cases)
        if self.linear:
            return visit.output, visit.output.flatten(1)
        cached = tensors_of(visit.returned) if self.whole else self.residuals
        return visit.output, by_row(cached, len(latents))

    def estimate(self, step: int, latents: Tensor, estimate: Tensor) -> Tensor:
        """Return the output, guided, with an estimate in place of what is cached.

        Args:
            step: Where in the loop.
            latents: (rows, ...) as `compute` takes them.
            estimate: (rows, features) as `compute` returns it.
        """
        if self.linear:
            return estimate.view_as(latents)
        parts = apart(estimate, self._like)
        if not self.whole:
            self.stand_ins = parts
            return self._visit(step, latents).output
        form, places = self._blanks_of(len(latents))[step], iter(parts)
        return self._visit(step, latents, None, [filled(one, places) for one in form]).output

    def advance(self, step: int, output: Tensor, latents: Tensor) -> Tensor:
        """Take a step of the scheduler: the latents of the next step."""
        self._scheduler._step_index = step
        moved: Tensor = self._scheduler.step(
            output, self._scheduler.timesteps[step], latents, return_dict=False
        )[0]
        return moved

    def _record(self, notes: _ReplayNotes) -> list[LoopStep]:
        """Draw the cases as they are; at the first step nothing is known of later ones."""
        with (
            self,
            hand_on(self._board.pipe, self._denoiser, notes) as self._scheduler,
            torch.no_grad(),
        ):
            self._board.draw(self._cases)
        steps = notes.steps
        if len(steps) != self._board.steps or len(steps[0].latents) != self.rows:
            raise UnsupportedModelError(
                f"expected {self._board.steps} steps of a scheduler with {self.rows} rows, received"
                f" {len(steps)} steps; replay a pipeline that takes one for each denoising step"
            )
        shapes = [[tensor.shape for tensor in tensors_of(step.returned)] for step in steps]
        if any(own != shapes[0] for own in shapes):
            raise UnsupportedModelError(
                "expected the same calls of the denoiser at every step, received others at some, "
                "as guidance that ends early makes them; replay a pipeline that guides all steps"
            )
        return steps

    def _visit(
        self,
        step: int,
        latents: Tensor,
        cases: Sequence[Case] | None = None,
        given: Sequence[Any] | None = None,
    ) -> LoopVisit:
        """Go to a step of the loop."""
        count = len(latents)
        if cases is None and count != self.rows > 1:
            raise StateError(
                f"expected latents of the {self.rows} recorded cases, received {count}; tell whose "
                "they are by cases=..."
            )
        cases = cases or [self._cases[row % self.rows] for row in range(count)]
        visit = LoopVisit(self._blanks_of(count), step, latents, given)
        with hand_on(self._board.pipe, self._denoiser, visit), torch.no_grad():
            visit.pay(lambda: self._board.draw(cases))
        return visit

    def _blanks_of(self, count: int) -> list[list[Any]]:
        """Return what stands for outputs of every step and call, for so many rows."""
        if count not in self._blanks:
            self._blanks[count] = [
                [blank(one, self.rows, count) for one in known.returned] for known in self._steps
            ]
        return self._blanks[count]

    def _is_linear(self) -> bool:
        """Tell whether what is guided is the same sum of what branches return at every step.

        It is tried on sums of recorded outputs, at three steps; nothing is computed for it.
        """
        known = [tensors_of(step.returned) for step in self._steps]
        if self._steps[0].output.shape != self._steps[0].latents.shape:
            return False
        last = len(known) - 1
        for step in {last, last // 2, min(1, last)} - {0}:
            sums = [1.5 * a - 0.5 * b for a, b in zip(known[step - 1], known[0], strict=True)]
            guided = 1.5 * self._steps[step - 1].output - 0.5 * self._steps[0].output
            places, latents = iter(sums), self._steps[step].latents
            given = [filled(one, places) for one in self._steps[step].returned]
            found = self._visit(step, latents, None, given).output
            # Half of the digits: guidance adds up differences that are rounded.
            slack = torch.finfo(found.dtype).eps ** 0.5 * guided.abs().max()
            if not bool((found - guided).abs().max() <= slack):
                return False
        return True


class _ReplayNotes(LoopNotes):
    """Notes besides what the stack added at the calls of the first step, to one row each."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay
        self.residuals: list[Tensor] = []

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Take the step."""
        if not self.steps:
            self.residuals = [one[: len(one) // len(latents)] for one in self._replay.residuals]
        self._replay.residuals = []
        return super().step(plain, idle, output, latents)


class _ReplayTap(StackTap[Replay]):
    """Stands in for one block of the stack."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the estimate on, or compute and note what the stack added."""
        replay = self._owner
        if replay.stand_ins:
            streams = self._signature.read(args, kwargs)
            if self._first:
                parts = iter(_unflatten(replay.stand_ins[0], replay.of_stack(streams)))
                pairs = zip(streams, replay.leaving, strict=True)
                streams = tuple(one + next(parts) if leaves else one for one, leaves in pairs)
            if self._last:
                replay.stand_ins.pop(0)
            return self._signature.pack(streams)
        if self._first:
            replay.inputs = self._signature.read(args, kwargs)
        output = self.plain(*args, **kwargs)
        if self._last:
            ends, rows = self._signature.unpack(output), len(replay.inputs[0])
            replay.leaving = [one is not None for one in ends]
            begun = flatten(replay.of_stack(replay.inputs), rows)
            replay.residuals.append(flatten(ends, rows) - begun)
        return output


def _unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Invert `flatten`: views with the shapes of `like`."""
    parts = torch.split(flat, [stream[0].numel() for stream in like], dim=1)
    return [part.view(stream.shape) for part, stream in zip(parts, like, strict=True)]
