"""What a block does while a pipeline is attached.

The first block of a span that runs decides between computing and estimating, the last one hands
out the estimate or records the residual, the ones between compute or pass through. Rows that
compute run as a smaller batch and are scattered back: at the end of the span, or after every block
where the denoiser itself adds something in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import Span
from ditcache_rl.instrument.context import current_request
from ditcache_rl.instrument.exits import Exit, finish, flatten, with_rows
from ditcache_rl.instrument.layout import Role
from ditcache_rl.instrument.request import Request
from ditcache_rl.instrument.signatures import has_opaque, leaves_of, map_tensors
from ditcache_rl.instrument.state import SpanState
from ditcache_rl.instrument.taps import Tap
from ditcache_rl.types import Mode, Tier


class Pass:
    """A span between its first and its last block; this one leaves all blocks as they are."""

    plain = True

    def __init__(self, span: Span) -> None:
        self.span = span


class RowsPass(Pass):
    """A span of which some rows compute and are recorded, and the others are estimated.

    Attributes:
        rows: Rows of a branch that compute.
        inputs: Streams of all rows at the entrance.
        estimated: Streams of all rows at the exit; empty where all rows compute.
    """

    plain = False

    def __init__(
        self,
        span: Span,
        states: list[SpanState],
        *,
        batch: int,
        rows: NDArray[np.int64],
        tiers: NDArray[np.int8],
        inputs: tuple[Any, ...],
        estimated: tuple[Any, ...],
    ) -> None:
        super().__init__(span)
        self.states, self.rows, self.tiers = states, rows, tiers
        self.inputs, self.estimated = inputs, estimated
        self._batch = batch
        self._everyone = not estimated
        self._index: dict[int, Tensor] = {}
        self._previous: Any = None
        self._gathered = False
        self._pure = True

    def run(self, request: Request, role: Role, tap: Tap, args: Any, kwargs: Any) -> Any:
        """Compute, pass through, or hand out the estimate."""
        if self._everyone:
            output = tap.plain(*args, **kwargs)
            self.computed(request, role, tap, args, kwargs, output)
            return output
        if not len(self.rows):
            return self._estimate(role, tap, args, kwargs)
        return self._compute_some(request, role, tap, args, kwargs)

    def computed(
        self, request: Request, role: Role, tap: Tap, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Note what a block has returned to all rows."""
        if self._previous is not None:
            given = role.signature.read(args, kwargs)
            same = [a is b for a, b in zip(given, self._previous, strict=False)]
            self._pure = self._pure and all(same)
        streams = self._previous = role.signature.unpack(output)
        if role.deep and tap not in self.states[0].forms:
            form = map_tensors(output, lambda t: t.new_zeros(()).expand(t.shape))
            for state in self.states:
                state.forms[tap] = form
        if role.last:
            exits = tuple(
                Exit.between(start, end, self._batch, deep=role.deep)
                for start, end in zip(self.inputs, streams, strict=True)
            )
            for state in self.states:
                state.exits, state.pure = exits, self._pure and not role.deep
            self._record(request, self.inputs, streams, exits, len(self.states) * request.rows)

    def _estimate(self, role: Role, tap: Tap, args: Any, kwargs: Any) -> Any:
        form = self.states[0].forms.get(tap)
        if role.last:
            return role.signature.pack(self.estimated, form)
        return form if role.deep else role.signature.pack(role.signature.read(args, kwargs))

    def _compute_some(self, request: Request, role: Role, tap: Tap, args: Any, kwargs: Any) -> Any:
        signature, pure = role.signature, self.states[0].pure
        if signature.inseparable or has_opaque(args) or has_opaque(kwargs.values()):
            return self._compute_more(request, role, tap, args, kwargs)
        streams = signature.read(args, kwargs)
        whole = len(self.inputs[0]) if self._gathered else len(streams[0])
        few_args, few_kwargs = signature.map_rows(
            args, kwargs, {whole, self._batch}, self._pick, gathered=self._gathered
        )
        output = tap.plain(*few_args, **few_kwargs)
        if role.last:
            few_inputs = map_tensors(self.inputs, self._pick)
            ends = signature.unpack(output)
            count = len(self.states) * len(self.rows)
            self._record(request, few_inputs, ends, self.states[0].exits, count)
            merged = [
                end if end is None or all_rows is None else self._put(all_rows, end)
                for all_rows, end in zip(self.estimated, ends, strict=True)
            ]
            return signature.pack(merged, output if role.deep else None)
        if pure:
            self._gathered = True
            return output
        if role.deep:
            form = iter(leaves_of(self.states[0].forms[tap]))
            return map_tensors(output, lambda t: self._put(torch.zeros_like(next(form)), t))
        merged = [
            end if end is None else self._put(start, end)
            for start, end in zip(streams, signature.unpack(output), strict=True)
        ]
        return signature.pack(merged)

    def _compute_more(self, request: Request, role: Role, tap: Tap, args: Any, kwargs: Any) -> Any:
        """Compute all rows, and take what was asked for: the rows of some argument are hidden."""
        output = tap.plain(*args, **kwargs)
        if not role.last:
            return output
        few_inputs = map_tensors(self.inputs, self._pick)
        ends = [None if end is None else self._pick(end) for end in role.signature.unpack(output)]
        count = len(self.states) * len(self.rows)
        self._record(request, few_inputs, ends, self.states[0].exits, count)
        merged = [
            end if end is None else self._put(all_rows, end)
            for all_rows, end in zip(self.estimated, ends, strict=True)
        ]
        return role.signature.pack(merged)

    def _record(
        self,
        request: Request,
        starts: Sequence[Any],
        ends: Sequence[Any],
        exits: Sequence[Exit],
        batch: int,
    ) -> None:
        if not (self.tiers[self.rows] != Tier.DROP).any():
            return
        parts = []
        for start, end, form in zip(starts, ends, exits, strict=True):
            if form.shape:
                flat = end.reshape(batch, -1)
                parts.append(flat - start.reshape(batch, -1) if form.is_residual else flat)
        if len(parts) > 1:
            entry = torch.cat(parts, dim=1)
        else:  # a stream itself may be modified later by whoever owns it
            entry = parts[0] if exits[0].is_residual else parts[0].clone()
        request.record(self.states, entry, self.rows, self.tiers)

    def _pick(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(0, self._rows_of(tensor.device, len(tensor) // self._batch))

    def _put(self, whole: Tensor, part: Tensor) -> Tensor:
        return whole.index_copy(0, self._rows_of(part.device, len(whole) // self._batch), part)

    def _rows_of(self, device: torch.device, ratio: int) -> Tensor:
        """Index the computing rows of all branches in a tensor with `ratio` entries per row."""
        if ratio not in self._index:
            branches = np.arange(len(self.states))[:, None] * (self._batch // len(self.states))
            rows = (branches + self.rows).reshape(-1, 1) * ratio + np.arange(ratio)
            self._index[ratio] = torch.as_tensor(rows.ravel(), device=device)
        return self._index[ratio]


class BlockTap(Tap):
    """Stands in for a block; outside of a request it is the plain one."""

    depth = 1  # behind the tap of a denoiser that is its own only block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the span does that the block belongs to, if it belongs to one."""
        request: Request | None = current_request()
        if request is None or request.off:
            return self.plain(*args, **kwargs)
        assert request.layout is not None
        role = request.layout.roles.get(self)
        if role is None:
            return self.plain(*args, **kwargs)
        active = _pass_of(request, role, args, kwargs)
        if active.plain:
            return self.plain(*args, **kwargs)
        return active.run(request, role, self, args, kwargs)

    def catch_up(self, request: Request, args: Any, kwargs: Any, output: Any) -> None:
        """Do after a plain call, the first of the request, what had been done around it."""
        assert request.layout is not None
        role = request.layout.roles[self]
        active = _pass_of(request, role, args, kwargs)
        if not active.plain:
            active.computed(request, role, self, args, kwargs, output)


def _pass_of(request: Request, role: Role, args: Any, kwargs: Any) -> Any:
    """Return the pass of a span; the first of its blocks that runs enters it."""
    active = request.active
    if active is None or active.span is not role.span:
        active = request.active = _enter(request, role, args, kwargs)
    return active


def _enter(request: Request, role: Role, args: Any, kwargs: Any) -> Pass:
    span = role.span
    streams = role.signature.read(args, kwargs)
    if span.site < 0:
        request.stack_input = streams
        return Pass(span)
    batch = len(request.chunks) * request.rows
    if not isinstance(streams[0], Tensor) or len(streams[0]) % batch:
        return Pass(span)  # rows come in a list, or are packed into one sequence
    start = request.stack_input or streams
    decision = request.decide(
        with_rows(streams[0], batch),
        flatten(streams, batch) - flatten(start, batch) if request.stack_input else None,
        lambda: modulated_input(role, start[0], args, kwargs),
    )
    tiers = decision.tiers[:, span.site]
    shapes = tuple([None if stream is None else stream.shape for stream in streams])
    states = request.states(span, shapes)
    modes = request.effective(span, states, decision.modes[:, span.site])
    everyone = not modes.any()
    if everyone and tiers.min() == Tier.DROP:
        return Pass(span)
    rows = np.flatnonzero(modes == Mode.COMPUTE)
    estimated: tuple[Any, ...] = ()
    if not everyone:
        entry = request.estimate(states, modes)
        estimated = finish(entry, streams, states[0].exits, batch)
    return RowsPass(
        span, states, batch=batch, rows=rows, tiers=tiers, inputs=streams, estimated=estimated
    )


def modulated_input(role: Role, hidden_states: Tensor, args: Any, kwargs: Any) -> Tensor:
    """Return the normalised and modulated input of the first block: (rows, tokens, channels).

    Raises:
        UnsupportedModelError: If the block has no adaptive norm of that kind.
    """
    block = role.stack_head
    given = dict(zip(role.signature.parameters, args, strict=False)) | kwargs
    norm, temb = getattr(block, "norm1", None), given.get("temb")
    if norm is None or temb is None:
        raise UnsupportedModelError(
            f"expected a block with an adaptive `norm1` and a `temb` argument, received "
            f"{type(block).__name__}; choose a controller that does not look at the modulated input"
        )
    modulated: Tensor = norm(hidden_states, emb=temb)[0]
    return modulated
