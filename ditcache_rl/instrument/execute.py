"""What stands in for the forward of a block while a pipeline is attached.

A site's first block decides between computing and estimating, its last block records the residual,
the ones between compute or pass through. Rows that compute run as a smaller batch and are scattered
back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import BlockSignature
from ditcache_rl.instrument.request import Request, current_request
from ditcache_rl.types import Mode, Tier

#: Site number of the probe blocks, which always compute.
PROBE = -1


class SitePass(NamedTuple):
    """A site between its first and its last block."""

    rows: NDArray[np.int64]
    """Rows that compute."""
    gathered: Tensor | None
    """The same on the device; None where all rows compute or none does."""
    inputs: tuple[Tensor, ...]
    """Streams of the computing rows at the entrance."""
    estimated: tuple[Tensor, ...]
    """Streams of all rows at the exit, as estimated; empty where all rows compute."""
    tiers: NDArray[np.int8]


_NONE = np.zeros(0, dtype=np.int64)
#: A site of which every row computes and nothing is kept: its blocks run as they are.
COMPUTED = SitePass(_NONE, None, (), (), np.zeros(0, dtype=np.int8))


class BlockRun:
    """Stands in for the forward of one block.

    Outside of a request it is the plain forward.
    """

    def __init__(
        self,
        block: nn.Module,
        signature: BlockSignature,
        *,
        site: int,
        first: bool,
        last: bool,
        stack_head: nn.Module,
    ) -> None:
        self._plain: Callable[..., Any] = block.forward
        self._signature = signature
        self._site, self._first, self._last = site, first, last
        self._stack_head = stack_head

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, estimate or pass through."""
        request = current_request()
        if request is None:
            return self._plain(*args, **kwargs)
        if request.active is COMPUTED and not self._first:
            return self._plain(*args, **kwargs)
        streams = self._signature.read(args, kwargs)
        if self._site == PROBE:
            if self._first:
                request.stack_input = streams
            return self._plain(*args, **kwargs)
        if self._first:
            request.active = self._enter(request, streams, kwargs)
        active: SitePass = request.active
        if active is COMPUTED:
            return self._plain(*args, **kwargs)
        if len(active.rows) == 0:
            return self._signature.pack(active.estimated if self._first else streams)
        if active.gathered is not None:
            batch = len(active.tiers)
            args, kwargs = self._signature.with_rows(
                args, kwargs, active.gathered, batch, gathered=not self._first
            )
        output = self._plain(*args, **kwargs)
        return self._leave(request, active, output) if self._last else output

    def _enter(
        self, request: Request, streams: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> SitePass:
        start = request.stack_input if request.stack_input else streams
        decision = request.decide(
            streams[0],
            flatten(streams) - flatten(start) if request.stack_input else None,
            lambda: modulated_input(self._stack_head, start[0], kwargs),
        )
        tiers = decision.tiers[:, self._site]
        modes = request.effective(self._site, decision.modes[:, self._site])
        rows = np.flatnonzero(modes == Mode.COMPUTE)
        if len(rows) == len(modes):
            if (tiers == Tier.DROP).all():
                return COMPUTED
            return SitePass(rows, None, streams, (), tiers)
        estimate = request.estimate(self._site, modes)
        estimated = tuple(
            stream + part
            for stream, part in zip(streams, unflatten(estimate, streams), strict=True)
        )
        if len(rows) == 0:
            return SitePass(rows, None, (), estimated, tiers)
        index = torch.as_tensor(rows, device=streams[0].device)
        inputs = tuple(stream.index_select(0, index) for stream in streams)
        return SitePass(rows, index, inputs, estimated, tiers)

    def _leave(self, request: Request, active: SitePass, output: Any) -> Any:
        streams = self._signature.unpack(output)
        if (active.tiers[active.rows] != Tier.DROP).any():
            residual = flatten(streams) - flatten(active.inputs)
            request.record(self._site, residual, active.rows, active.tiers)
        if active.gathered is None:
            return output
        index = active.gathered
        merged = [
            whole.index_copy(0, index, part)
            for whole, part in zip(active.estimated, streams, strict=True)
        ]
        return self._signature.pack(merged)


def flatten(streams: Sequence[Tensor]) -> Tensor:
    """Concatenate streams row by row: (rows, features)."""
    return torch.cat([stream.flatten(1) for stream in streams], dim=1)


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Invert `flatten`: views with the shapes of `like`."""
    sizes = [stream[0].numel() for stream in like]
    parts = torch.split(flat, sizes, dim=1)
    return [part.view(stream.shape) for part, stream in zip(parts, like, strict=True)]


def modulated_input(block: nn.Module, hidden_states: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Return the normalised and modulated input of the first block: (rows, tokens, channels).

    Raises:
        UnsupportedModelError: If the block has no adaptive norm of that kind.
    """
    norm, temb = getattr(block, "norm1", None), kwargs.get("temb")
    if norm is None or temb is None:
        raise UnsupportedModelError(
            f"expected a block with an adaptive `norm1` and a `temb` argument, received "
            f"{type(block).__name__}; choose a controller that does not look at the modulated input"
        )
    modulated: Tensor = norm(hidden_states, emb=temb)[0]
    return modulated
