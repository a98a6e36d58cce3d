"""What may be kept, and whether it came back as it went.

Both are told from tensors and bytes as numpy sees them: views that take less time than torch's own.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Self

import numpy as np
import torch
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
#: Dtypes whose sum of squares is fast.
_SQUARED = frozenset({torch.float64, torch.float32})
#: What a checksum takes as its seed.
_SEEDS = (1 << 64) - 1
#: Integers of a width in bytes.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class NotFiniteError(Exception):
    """A payload that is being written has NaN or Inf; never leaves the cache."""


@cache
def _known(dtype: torch.dtype) -> tuple[torch.dtype, np.dtype[Any]]:
    """Return a dtype itself if numpy has it, else the integer of its width; and what numpy has."""
    try:
        return dtype, torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:
        return _known(_INTEGERS[dtype.itemsize])


def array_of(tensor: Tensor) -> NDArray[Any]:
    """View a CPU tensor as an array, of integers where numpy does not know its dtype."""
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.view(_known(tensor.dtype)[0]).numpy()


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a contiguous array as (n,) uint8."""
    return array.ravel().view(np.uint8)


def array_over(memory: NDArray[np.uint8], shape: torch.Size, dtype: torch.dtype) -> NDArray[Any]:
    """View bytes as an array such as `array_of` makes of a tensor of that shape and dtype."""
    return memory.view(_known(dtype)[1]).reshape(shape)


def tensor_over(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Invert `array_of`; the array lives as long as the tensor's storage."""
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype is dtype else tensor.view(dtype)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a CPU tensor has no NaN and no Inf, in one pass in the common case."""
    dtype = tensor.dtype
    if dtype not in _BITS:
        return True
    if tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()
    if tensor.nbytes >= THREADS_FROM and _adds_up(tensor):
        return True
    return array_is_finite(array_of(tensor), dtype)


def array_is_finite(array: NDArray[Any], dtype: torch.dtype) -> bool:
    """The same of what `array_of` makes of a tensor, with one thread.

    The sum of squares is NaN or Inf if any number is, and takes the time of reading. Large finite
    numbers can do that too, so a suspicious one is looked at again.
    """
    if dtype in _SQUARED:
        total = float(np.vdot(array, array))  # `dot` would warn of an overflow
        if total - total == 0.0:
            return True
    elif dtype not in _BITS:
        return True
    return _bits_are_finite(array, dtype)


def _adds_up(tensor: Tensor) -> bool:
    """Tell whether a sum, which one NaN or Inf spoils, is finite; with all of torch's threads."""
    numbers = tensor.view(-1)
    if tensor.dtype in _SQUARED:
        total = float(torch.dot(numbers, numbers))
    else:
        total = float(numbers.sum(dtype=torch.float32))
    return total - total == 0.0


def _bits_are_finite(array: NDArray[Any], dtype: torch.dtype) -> bool:
    """Compare as integers, which is exact; half precision has no fast sum."""
    if not array.size:
        return True
    signed, unsigned, positive, negative = _BITS[dtype]
    return bool(array.view(signed).max() < positive and array.view(unsigned).max() < negative)


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

    @classmethod
    def about(cls, tensor: Tensor) -> Self | None:
        """Ask about a GPU tensor; None where there is nothing to ask."""
        if tensor.dtype not in _BITS or not tensor.numel():
            return None
        return cls(tensor)

    @property
    def settled(self) -> bool:
        """Whether the answer is there."""
        return bool(self._event.query())

    @property
    def refused(self) -> bool:
        """Whether the tensor is known to hold NaN or Inf."""
        return self.settled and not bool(self._answer)


def seed_of(key: EntryKey, serial: int, part: int) -> int:
    """Return the seed of a part's checksum: the name of the entry and of its slot.

    A block that lies where another one should be has the right bytes and the wrong seed.
    """
    return hash((key, serial, part)) & _SEEDS
