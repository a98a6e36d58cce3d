"""Tensors and bytes as numpy sees them: views that take less time than torch's own."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
