"""Run a pipeline in float64 throughout: what is left of a difference there is no rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_CASTS = frozenset({"half", "bfloat16", "float"})


@contextmanager
def doubled(pipe: Any) -> Iterator[None]:
    """Widen the weights of a pipeline and every operation; weights are put back afterwards.

    Models cast to float32 by themselves, where float16 would not do: those casts are widened too.
    """
    modules = [part for part in vars(pipe).values() if isinstance(part, nn.Module)]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    before, dtype = [tensor.data for tensor in tensors], torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for tensor in tensors:
        tensor.data = _widen(tensor.data)
    try:
        # Z-Image asserts that its latents are of the type that this names.
        with _Doubled(), mock.patch.object(torch, "float32", torch.float64):
            yield
    finally:
        torch.set_default_dtype(dtype)
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data


class _Doubled(TorchFunctionMode):
    """Widens what operations take and return, and the dtypes that they are asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _CASTS:
            func = Tensor.double
        given, named = _widen(args), _widen(kwargs or {})
        return _widen(func(*given, **named))


def _widen(value: Any) -> Any:
    """Widen what is in tuples, lists and dictionaries; torch's own walk takes longer."""
    if isinstance(value, Tensor):
        if value.dtype in _WIDER:
            return torch.ops.aten._to_copy.default(value, dtype=_WIDER[value.dtype])
    elif isinstance(value, torch.dtype):
        return _WIDER.get(value, value)
    elif type(value) in (tuple, list):
        return type(value)(map(_widen, value))
    elif type(value) is dict:
        return {name: _widen(one) for name, one in value.items()}
    return value
