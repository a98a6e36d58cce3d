"""Stand in front of modules: on the instance, around every other hook, and removable in any order.

A tap sits where `nn.Module.compile` puts a compiled call. So a compiled block stays compiled behind
it, decisions stay outside of its graph, and a `forward` that others replace meanwhile (offloading,
quantization) is used as it is.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import nn

_PLACE = "_compiled_call_impl"
_LOCK = threading.Lock()


class Tap(ABC):
    """Runs in place of a module; what it does around the module is up to the kind of tap.

    Attributes:
        module: Stood in front of.
        users: How many have installed it and not released it.
        compiled: The compiled call of the module; None without one.
        plain: What would have run.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.users = 0
        self.compiled = compiled = module.__dict__.get(_PLACE)
        self.plain: Callable[..., Any] = module._call_impl if compiled is None else compiled

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module."""

    def restore(self) -> None:
        """Leave the module as it was, unless somebody compiled it anew since."""
        if self.module.__dict__.get(_PLACE) is not self:
            return
        if self.compiled is None:
            del self.module.__dict__[_PLACE]
        else:
            self.module.__dict__[_PLACE] = self.compiled


def tap_of(module: nn.Module) -> Tap | None:
    """Return the tap of a module, if it has one."""
    found = module.__dict__.get(_PLACE)
    return found if isinstance(found, Tap) else None


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module runs a compiled call, behind a tap or without one."""
    found = module.__dict__.get(_PLACE)
    return (found.compiled if isinstance(found, Tap) else found) is not None


def install(module: nn.Module, kind: type[Tap]) -> Tap:
    """Tap a module, or use the tap that it has; `release` it once for each call of this."""
    with _LOCK:
        tap = tap_of(module)
        if tap is None:
            tap = kind(module)
            module.__dict__[_PLACE] = tap
        tap.users += 1
        return tap


def release(tap: Tap) -> None:
    """Give up one use; the last one restores the module."""
    with _LOCK:
        tap.users -= 1
        if tap.users == 0:
            tap.restore()
