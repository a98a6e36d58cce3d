"""Take the denoising loop of a pipeline apart: one step at a time, for rows of one's own choice.

A search that branches needs what a pipeline call does not offer: to go on from the same latents in
two ways. The steps stay those of the pipeline: its transformer, called with the arguments that its
own call passed, and its scheduler. What decides and caches for users is the runner, not this.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.bench.board import Board
from ditcache_rl.bench.draw import Case
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import is_attached
from ditcache_rl.instrument.blocks import find_stack, is_whole
from ditcache_rl.instrument.exits import flatten
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.instrument.signatures import BlockSignature
from ditcache_rl.instrument.taps import Tap, install, release
from ditcache_rl.types import Floats

#: Arguments of a transformer that have no batch dimension, whatever their first size is.
_SHARED = frozenset({"img_ids", "txt_ids"})


class Replay:
    """The loop of one pipeline call, with the block stack, or the whole transformer, as one site.

    Entering taps the blocks of the pipeline's transformer, leaving gives the taps up.

    Args:
        board: Pipeline and steps.
        cases: One per row of the recorded call.

    Raises:
        StateError: If the pipeline is attached.
        UnsupportedModelError: If the pipeline calls its transformer more than once per step, or its
            blocks are not known by name.
    """

    def __init__(self, board: Board, cases: Sequence[Case]) -> None:
        if is_attached(board.pipe):
            raise StateError(
                "expected a plain pipeline to replay, received one that is attached; detach it"
            )
        self._denoiser = denoiser_of(board.pipe)
        self._calls = _recorded(board, cases, self._denoiser)
        if len(self._calls) != board.steps:
            raise UnsupportedModelError(
                f"expected one call of the transformer per step, received {len(self._calls)} calls "
                f"in {board.steps} steps; replay a pipeline without a second guidance branch"
            )
        self._scheduler = copy.deepcopy(board.pipe.scheduler)
        #: What the transformer returns is what is cached.
        self.whole = is_whole(board.blocks)
        self._blocks = [] if self.whole else self._known_blocks()
        self._taps: list[Tap] = []
        self.rows = len(cases)
        #: What stands in for the stack at the call under way, (rows, features); None to compute it.
        self.stand_in: Tensor | None = None
        #: What the stack added at the call under way.
        self.residual: Tensor | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def _known_blocks(self) -> list[tuple[nn.Module, BlockSignature]]:
        stack = find_stack(self._denoiser)
        known = [] if stack is None else [s for s in stack.signatures if s is not None]
        if stack is None or stack.deep or len(known) < len(stack.blocks):
            raise UnsupportedModelError(
                "expected a transformer whose blocks and their arguments are known by name to "
                f"replay, received {type(self._denoiser).__name__}; choose a search without it"
            )
        return list(zip(stack.blocks, known, strict=True))

    def __enter__(self) -> Self:
        """Tap the blocks."""
        last = len(self._blocks) - 1
        for index, (block, signature) in enumerate(self._blocks):
            kind = partial(_ReplayTap, self, signature, first=index == 0, last=index == last)
            self._taps.append(install(block, kind))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore."""
        while self._taps:
            release(self._taps.pop())
        self.stand_in = self.residual = None
        self.inputs = ()

    @property
    def sigmas(self) -> Floats:
        """Noise levels: (steps + 1,)."""
        return np.asarray(self._scheduler.sigmas.detach().cpu(), dtype=np.float64)

    def start(self) -> Tensor:
        """Return the latents before the first step: (rows, ...)."""
        latents: Tensor = self._calls[0]["hidden_states"]
        return latents

    def recorded(self) -> list[Tensor]:
        """Return the latents before every step of the recorded call."""
        return [call["hidden_states"] for call in self._calls]

    def compute(
        self, step: int, latents: Tensor, *, rows: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the transformer: its output, and the residual of the stack (rows, features).

        Args:
            step: Whose arguments to use.
            latents: (rows, ...) of the recorded cases, or any number of rows of a single one.
            rows: Numbers of the recorded cases that the latents belong to; all in their order.
        """
        self.stand_in = None
        output = self._call(step, latents, rows)
        if self.whole:
            return output, output.flatten(1)
        assert self.residual is not None, "the last block leaves it"
        return output, self.residual

    def estimate(self, step: int, latents: Tensor, estimate: Tensor) -> Tensor:
        """Return the output of the transformer with an estimate in place of the stack."""
        if self.whole:
            return estimate.view_as(latents)
        self.stand_in = estimate
        return self._call(step, latents)

    def advance(self, step: int, output: Tensor, latents: Tensor) -> Tensor:
        """Take a step of the scheduler: the latents of the next step."""
        self._scheduler._step_index = step
        moved: Tensor = self._scheduler.step(
            output, self._scheduler.timesteps[step], latents, return_dict=False
        )[0]
        return moved

    def _call(self, step: int, latents: Tensor, rows: NDArray[np.int64] | None = None) -> Tensor:
        wanted = np.zeros(len(latents), dtype=np.int64) if self.rows == 1 else rows
        arguments = {
            name: value[torch.as_tensor(wanted, device=value.device)]
            if wanted is not None
            and isinstance(value, Tensor)
            and name not in _SHARED
            and value.shape[:1] == (self.rows,)
            else value
            for name, value in self._calls[step].items()
        }
        output: Tensor = self._denoiser(**(arguments | {"hidden_states": latents}))[0]
        return output


class _ReplayTap(Tap):
    """Stands in for one block of the stack."""

    def __init__(
        self,
        replay: Replay,
        signature: BlockSignature,
        block: nn.Module,
        *,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__(block)
        self._signature, self._replay = signature, replay
        self._first, self._last = first, last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the estimate on, or compute and note what the stack added."""
        replay = self._replay
        if replay.stand_in is not None:
            streams = self._signature.read(args, kwargs)
            if self._first:
                parts = _unflatten(replay.stand_in, streams)
                streams = tuple(a + b for a, b in zip(streams, parts, strict=True))
            return self._signature.pack(streams)
        if self._first:
            replay.inputs = self._signature.read(args, kwargs)
        output = self.plain(*args, **kwargs)
        if self._last:
            ends, rows = self._signature.unpack(output), len(replay.inputs[0])
            replay.residual = flatten(ends, rows) - flatten(replay.inputs, rows)
        return output


def _unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Invert `flatten`: views with the shapes of `like`."""
    parts = torch.split(flat, [stream[0].numel() for stream in like], dim=1)
    return [part.view(stream.shape) for part, stream in zip(parts, like, strict=True)]


def _recorded(board: Board, cases: Sequence[Case], denoiser: nn.Module) -> list[dict[str, Any]]:
    """Draw cases as they are, and return the arguments of every call of the transformer."""
    calls: list[dict[str, Any]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            raise UnsupportedModelError(
                f"expected {type(board.pipe).__name__} to call its transformer by keyword, "
                f"received {len(args)} positional arguments; replay another pipeline"
            )
        calls.append(dict(kwargs))

    handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            board.draw(cases)
    finally:
        handle.remove()
    return calls
