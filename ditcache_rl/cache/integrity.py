"""What may be kept, and whether it came back as it went."""

from __future__ import annotations

import struct
from typing import Any

import torch
import xxhash
from torch import Tensor

from ditcache_rl.types import EntryKey

#: Dtypes that can hold NaN or Inf and that torch can sum.
_FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


class NotFiniteError(Exception):
    """A payload that is being written has NaN or Inf; never leaves the cache."""


def require_finite(payload: Tensor, dtype: torch.dtype | None) -> None:
    """Look at bytes as numbers of a dtype; None if that has been done before.

    Raises:
        NotFiniteError: If one of them is NaN or Inf.
    """
    if dtype is not None and dtype in _FLOATS and not is_finite(payload.view(dtype)):
        raise NotFiniteError


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor has no NaN and no Inf, in one pass in the common case.

    On the CPU a float32 sum runs at the speed of memory and is NaN or Inf if any summand is; only a
    suspicious sum, which large finite numbers can also cause, is looked at again. Half precision is
    summed slowly there, so its extremes are taken, through which NaN and Inf pass.
    """
    if tensor.dtype not in _FLOATS or not tensor.numel():
        return True
    if tensor.dtype in (torch.float32, torch.float64):
        total = tensor.sum().item()
        if total - total == 0.0:
            return True
    low, high = (extreme.item() for extreme in torch.aminmax(tensor))
    return bool(low - low == 0.0 and high - high == 0.0)


class Doubt:
    """The answer of a GPU to whether a tensor is finite, which comes later.

    Asking for it at once would make the host wait for everything that the GPU has yet to do.
    """

    def __init__(self, tensor: Tensor) -> None:
        answer = tensor.sum(dtype=torch.float32).isfinite()
        self._answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._answer.copy_(answer, non_blocking=True)
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    @property
    def settled(self) -> bool:
        """Whether the answer is there."""
        return bool(self._event.query())

    @property
    def refused(self) -> bool:
        """Whether the tensor is known to hold NaN or Inf."""
        return self.settled and not bool(self._answer)


def doubt_of(tensor: Tensor) -> Doubt | None:
    """Return the pending question of a GPU tensor, None where there is nothing to ask."""
    if not tensor.is_cuda or tensor.dtype not in _FLOATS or not tensor.numel():
        return None
    return Doubt(tensor)


def seed_of(key: EntryKey, serial: int, part: int) -> int:
    """Return the seed of a part's checksum: the name of the entry and of its slot.

    A block that lies where another one should be has the right bytes and the wrong seed.
    """
    return xxhash.xxh3_64_intdigest(struct.pack("<6q", *key, serial, part))
