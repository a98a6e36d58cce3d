"""Stand in front of modules: on the instance, around every other hook, and removable in any order.

A tap sits where `nn.Module.compile` puts a compiled call. So a compiled block stays compiled behind
it, decisions stay outside of its graph, and a `forward` that others replace meanwhile (offloading,
quantization) is used as it is. Several taps of a module stand one behind the other.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from torch import nn

_PLACE = "_compiled_call_impl"
_LOCK = threading.Lock()


class Tap(ABC):
    """Runs in place of a module; what it does around the module is up to the kind of tap.

    Attributes:
        module: Stood in front of.
        users: How many have installed it and not released it.
        behind: The next tap, or the compiled call of the module; None without either.
        plain: What would have run.
    """

    #: Taps of one module stand in this order, the least in front; of equals the newest.
    depth: ClassVar[int] = 0

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.users = 0
        self.stand_before(module.__dict__.get(_PLACE))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied as what stands behind: a copy of a tapped module is plain."""
        return _as_it_is, (self.behind,)

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the module."""

    @property
    def is_only(self) -> bool:
        """Whether the module would have an attribute less without it, and one user wants it."""
        return self.users == 1 and self.behind is None and taps_of(self.module) == [self]

    def stand_before(self, behind: Callable[..., Any] | None) -> None:
        """Take a place in the row."""
        self.behind = behind
        self.plain: Callable[..., Any] = self.module._call_impl if behind is None else behind


def _as_it_is(behind: Callable[..., Any] | None) -> Callable[..., Any] | None:
    return behind


TapT = TypeVar("TapT", bound=Tap)


def taps_of(module: nn.Module) -> list[Tap]:
    """List the taps of a module, from the front to the module."""
    found, place = [], module.__dict__.get(_PLACE)
    while isinstance(place, Tap):
        found.append(place)
        place = place.behind
    return found


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module runs a compiled call, behind taps or without one."""
    place = module.__dict__.get(_PLACE)
    while isinstance(place, Tap):
        place = place.behind
    return place is not None


def install(module: nn.Module, kind: Callable[[nn.Module], TapT]) -> TapT:
    """Tap a module; `release` the tap once for each call of this.

    Args:
        module: To stand in front of.
        kind: A class of taps, of which a module has one that all users share; or a function that
            makes a tap of one's own, of a class that nobody shares.
    """
    with _LOCK:
        row = taps_of(module)
        tap: Any = next((tap for tap in row if type(tap) is kind), None)
        if tap is None:
            tap = kind(module)
            _insert(tap, row)
        tap.users += 1
        return cast(TapT, tap)


def restore(tap: Tap) -> None:
    """Put a tap back that is in use, if its module was compiled anew and stands alone now."""
    with _LOCK:
        row = taps_of(tap.module)
        if tap.users and tap not in row:
            tap.stand_before(tap.module.__dict__.get(_PLACE))
            _insert(tap, row)


def _insert(tap: Tap, row: list[Tap]) -> None:
    """Put a tap that stands before all of a row behind those that are of less depth."""
    front = [other for other in row if other.depth < tap.depth]
    if front:
        tap.stand_before(front[-1].behind)
        front[-1].stand_before(tap)
    else:
        tap.module.__dict__[_PLACE] = tap


def release(tap: Tap) -> None:
    """Give up one use; the last one leaves the module as if the tap had never been.

    Where somebody has compiled the module anew since, none may stand before it any more.
    """
    with _LOCK:
        tap.users -= 1
        row = taps_of(tap.module)
        if tap.users or tap not in row:
            return
        place = row.index(tap)
        if place:
            row[place - 1].stand_before(tap.behind)
        elif tap.behind is None:
            del tap.module.__dict__[_PLACE]
        else:
            tap.module.__dict__[_PLACE] = tap.behind
