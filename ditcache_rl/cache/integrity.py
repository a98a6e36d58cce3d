"""What may be kept, and whether it came back as it went."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.types import EntryKey

#: How to see NaN and Inf in the bits: as which integers, and from which value on, with and without
#: the sign.
_BITS: dict[torch.dtype, tuple[type[Any], type[Any], int, int]] = {
    torch.float64: (np.int64, np.uint64, 0x7FF << 52, 0xFFF << 52),
    torch.float32: (np.int32, np.uint32, 0x7F800000, 0xFF800000),
    torch.float16: (np.int16, np.uint16, 0x7C00, 0xFC00),
    torch.bfloat16: (np.int16, np.uint16, 0x7F80, 0xFF80),
}
#: From here on waking torch's threads costs less than they save.
THREADS_FROM = 1 << 18
_PLACE = struct.Struct("<6q").pack
_SQUARED: dict[torch.dtype, type[Any]] = {torch.float64: np.float64, torch.float32: np.float32}


class NotFiniteError(Exception):
    """A payload that is being written has NaN or Inf; never leaves the cache."""


def require_finite(data: NDArray[np.uint8], dtype: torch.dtype | None) -> None:
    """Look at bytes as numbers of a dtype; None if that has been done before.

    Raises:
        NotFiniteError: If one of them is NaN or Inf.
    """
    if dtype is None or dtype not in _BITS:
        return
    kind = _SQUARED.get(dtype)
    if not (kind and _sums_up(data.view(kind))) and not _bits_are_finite(data, dtype):
        raise NotFiniteError


def require_finite_tensor(payload: Tensor, dtype: torch.dtype | None) -> None:
    """The same with all of torch's threads, which pays for large payloads.

    Raises:
        NotFiniteError: If a number is NaN or Inf.
    """
    if dtype is not None and dtype in _SQUARED and _adds_up(payload.view(dtype)):
        return
    require_finite(payload.numpy(), dtype)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a CPU tensor has no NaN and no Inf, in one pass in the common case."""
    if tensor.dtype not in _BITS:
        return True
    if tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()
    if tensor.dtype in _SQUARED and (
        _sums_up(tensor.numpy()) if tensor.nbytes < THREADS_FROM else _adds_up(tensor.view(-1))
    ):
        return True
    return _bits_are_finite(tensor.view(-1).view(torch.uint8).numpy(), tensor.dtype)


def _sums_up(numbers: NDArray[Any]) -> bool:
    """Tell whether the sum of squares is finite: it is NaN or Inf if any number is.

    It runs at the speed of memory; only a suspicious one, which large finite numbers can also
    cause, is looked at again.
    """
    total = float(np.vdot(numbers, numbers))  # `dot` would warn of an overflow
    return total - total == 0.0


def _adds_up(numbers: Tensor) -> bool:
    """The same of a flat tensor, with torch's threads."""
    total = float(torch.dot(numbers, numbers))
    return total - total == 0.0


def _bits_are_finite(data: NDArray[np.uint8], dtype: torch.dtype) -> bool:
    """Compare as integers, which is exact; half precision has no fast sum."""
    if not data.nbytes:
        return True
    signed, unsigned, positive, negative = _BITS[dtype]
    return bool(data.view(signed).max() < positive and data.view(unsigned).max() < negative)


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
    if not tensor.is_cuda or tensor.dtype not in _BITS or not tensor.numel():
        return None
    return Doubt(tensor)


def seed_of(key: EntryKey, serial: int, part: int) -> int:
    """Return the seed of a part's checksum: the name of the entry and of its slot.

    A block that lies where another one should be has the right bytes and the wrong seed.
    """
    return xxhash.xxh3_64_intdigest(_PLACE(*key, serial, part))
