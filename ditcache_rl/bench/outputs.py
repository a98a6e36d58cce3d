"""Between what a denoiser returns, in whatever form, and what belongs to a row of the batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ditcache_rl.instrument.signatures import map_tensors


def blank(returned: Any, before: int, rows: int) -> Any:
    """Return something of the form of an output, for as many rows as are wanted.

    Args:
        returned: What a denoiser has returned.
        before: Rows of the pipeline's call then.
        rows: Rows now.
    """

    def emptied(tensor: Tensor) -> Tensor:
        fits = tensor.ndim > 0 and len(tensor) % before == 0
        first = (len(tensor) // before * rows,) if fits else tuple(tensor.shape[:1])
        return tensor.new_zeros(()).expand(*first, *tensor.shape[1:])

    return _map_rows(returned, emptied)


def by_row(tensors: Sequence[Tensor], rows: int) -> Tensor:
    """Bring together what belongs to a row: (rows, features).

    Args:
        tensors: (branches × rows, ...) each, one branch after the other.
        rows: Of a branch.
    """
    parts = [t.reshape(-1, rows, t[0].numel()).transpose(0, 1).flatten(1) for t in tensors]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def apart(flat: Tensor, like: Sequence[torch.Size]) -> list[Tensor]:
    """Invert `by_row`.

    Args:
        flat: (rows, features).
        like: Shapes of what was brought together, for a single row: (branches, ...) each.
    """
    parts = torch.split(flat, [shape.numel() for shape in like], dim=1)
    return [
        part.reshape(len(flat), shape[0], -1).transpose(0, 1).reshape(-1, *shape[1:])
        for part, shape in zip(parts, like, strict=True)
    ]


def filled(returned: Any, tensors: Iterator[Tensor]) -> Any:
    """Return something of the form of an output with other tensors."""
    return _map_rows(returned, lambda _: next(tensors))


def tensors_of(returned: Sequence[Any]) -> list[Tensor]:
    """List the tensors of outputs, rows first, in the order of `filled`."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    for one in returned:
        _map_rows(one, collect)
    return found


def _map_rows(returned: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors of an output; a list has one for each row."""
    if isinstance(returned, list):
        return list(change(torch.stack(returned)).unbind())
    if isinstance(returned, OrderedDict):
        return type(returned)(**{key: _map_rows(one, change) for key, one in returned.items()})
    if isinstance(returned, tuple):
        return tuple([_map_rows(one, change) for one in returned])
    return map_tensors(returned, change)
