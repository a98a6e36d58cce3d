"""Whose code runs now: that of a request, or somebody's that is called in the middle of it.

A request is of its thread or task, and everything that its pipeline calls belongs to it. Not so
the functions that the pipeline was given: they may run other pipelines on the same denoisers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import nn

_CURRENT: ContextVar[Any] = ContextVar("ditcache_rl_request", default=None)
_ASKED: ContextVar[Any] = ContextVar("ditcache_rl_asked", default=None)
_HARMLESS = "_ditcache_rl_harmless"


def current_request() -> Any:
    """Return the `Request` of this thread or task, None outside of one."""
    return _CURRENT.get()


@contextmanager
def running(request: Any) -> Iterator[None]:
    """Make a request that of this thread or task for a while; None for code that has none."""
    token = _CURRENT.set(request)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def visit() -> Iterator[None]:
    """Run what is not of the present request, which takes note that somebody was there."""
    request = current_request()
    if request is not None:
        request.visited = True
    with running(None):
        yield


def asked() -> Any:
    """Return what the requests of this thread or task are asked for, None for nothing special."""
    return _ASKED.get()


@contextmanager
def asking(target: Any) -> Iterator[None]:
    """Ask the requests of this thread or task for something in the place of what holds outside."""
    token = _ASKED.set(target)
    try:
        yield
    finally:
        _ASKED.reset(token)


class Visitor:
    """Stands in for a callable that a pipeline was given: what it calls is not of the request.

    It has the class, the signature and the attributes of the callable, which pipelines look at.

    Args:
        called: Runs in place of this.
    """

    def __init__(self, called: Callable[..., Any]) -> None:
        self.__wrapped__ = called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        with visit():
            return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Look at it."""
        return getattr(self.__wrapped__, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` goes by."""
        return type(self.__wrapped__)


_Called = TypeVar("_Called", bound=Callable[..., Any])


def harmless(called: _Called) -> _Called:
    """Mark a function that changes no model and calls none: nobody looks at weights after it."""
    setattr(called, _HARMLESS, True)
    return called


def visiting(value: Any) -> Any:
    """Return an argument of a pipeline's call, a callable as a `Visitor`.

    Models and classes stay what they are, and so does what is more than a callable, as tokenizers,
    or harmless.
    """
    if (
        callable(value)
        and not hasattr(value, _HARMLESS)
        and not isinstance(value, nn.Module | type)
        and not hasattr(type(value), "__len__")
    ):
        return Visitor(value)
    return value
