"""Between the streams of a span and its cache entry: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor


class Exit(NamedTuple):
    """How one stream at the end of a span is made of a cached entry."""

    is_residual: bool
    """Add what stands at the entrance; otherwise the entry is the stream itself."""
    shape: tuple[int, ...]
    """First dimension per row of the batch, then the others; empty where the stream ends here."""

    @classmethod
    def between(cls, start: Any, end: Any, batch: int, *, deep: bool) -> Self:
        """Compare a stream at the entrance with the same at the end."""
        if not isinstance(end, Tensor) or len(end) % batch:
            return cls(False, ())
        same = isinstance(start, Tensor) and start.shape == end.shape and not deep
        return cls(same, (len(end) // batch, *end.shape[1:]))


def finish(
    entry: Tensor, starts: Sequence[Any], exits: Sequence[Exit], batch: int
) -> tuple[Any, ...]:
    """Make the streams at the end of a span of a cached or forecast entry.

    Args:
        entry: (batch, features); not modified, and not handed out.
        starts: Streams at the entrance.
        exits: How each stream is made.
        batch: Rows of the batch.
    """
    sizes = [int(np.prod(form.shape)) for form in exits if form.shape]
    parts = iter(torch.split(entry, sizes, dim=1))
    ends: list[Any] = []
    for start, form in zip(starts, exits, strict=True):
        if not form.shape:
            ends.append(None)
            continue
        part = next(parts).reshape(batch * form.shape[0], *form.shape[1:])
        ends.append((start + part).to(start.dtype) if form.is_residual else part.clone())
    return tuple(ends)


def with_rows(stream: Tensor, batch: int) -> Tensor:
    """Bring the entries of a row together: (rows, tokens, channels)."""
    if len(stream) == batch:
        return stream
    return stream.reshape(batch, -1, stream.shape[-1])


def flatten(streams: Sequence[Any], batch: int) -> Tensor:
    """Concatenate streams row by row: (rows, features)."""
    parts = [stream.reshape(batch, -1) for stream in streams if stream is not None]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
