"""Which runners a pipeline is under: noted on the pipeline, and never copied with it.

An attached pipeline is of a class of its own, whose call is a request and whose copies are plain.
Of several runners the one that came last rules, but a task or thread is served by its own first.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any
from weakref import WeakValueDictionary

from ditcache_rl.control import Asked, Controller
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.context import asked

_LOCK = threading.Lock()
#: Attributes of a pipeline with its attachments and with what a session is asked for, and of its
#: class with the plain class.
_HELD, _ASKED, _PLAIN = "_ditcache_rl_attachments", "_ditcache_rl_asked", "_ditcache_rl_plain"
_NUMBERS = itertools.count()
#: Numbers of what this task or thread, or one that it was begun by, has attached.
_MINE: ContextVar[frozenset[int]] = ContextVar("ditcache_rl_mine", default=frozenset())
_SCOPED: ContextVar[bool] = ContextVar("ditcache_rl_scoped", default=False)
_ELSEWHERE = (
    "calls or sessions from other tasks or threads than that of the block computed everything; "
    "hand them a dc.session(pipe) that is made inside of the block, or use attach"
)


@contextmanager
def own_scope() -> Iterator[None]:
    """Let what is attached inside serve this task or thread alone, and those that it begins.

    `asyncio` and `asyncio.to_thread` hand the context on, executors and threads of one's own don't.
    """
    token = _SCOPED.set(True)
    try:
        yield
    finally:
        _SCOPED.reset(token)


class Attachment:
    """A pipeline under a runner, from `begin` to `end`, with the sessions made of it meanwhile.

    Args:
        request: Runs a call; gets the pipeline, and its positional and keyword arguments.
        note: Is told of calls and sessions that were left alone, because they came from elsewhere.

    Attributes:
        failed: Calls that raised, by the names of their errors.
    """

    def __init__(
        self,
        request: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
        note: Callable[[str], None],
    ) -> None:
        self.note = note
        self.failed: Counter[str] = Counter()
        self._request = request
        self._number = -1
        self._pipes: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._scoped: int | None = None  # the pipeline that it serves in its own scope alone

    def begin(self, pipe: Any) -> None:
        """Take a pipeline; inside of `own_scope`, for its scope alone.

        What a session was asked for was asked of whom it was made under.
        """
        self._number = next(_NUMBERS)
        self._scoped = id(pipe) if _SCOPED.get() else None
        _MINE.set(_MINE.get() | {self._number})
        with _LOCK:
            self._join(pipe)
            pipe.__dict__.pop(_ASKED, None)

    def end(self) -> None:
        """Leave everything that it serves as if it had never been there."""
        _MINE.set(_MINE.get() - {self._number})
        with _LOCK:
            for pipe in list(self._pipes.values()):
                self._part(pipe)

    def request(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call, and count it if it fails, however far it came."""
        try:
            return self._request(pipe, args, kwargs)
        except BaseException as error:
            with _LOCK:
                self.failed[type(error).__name__] += 1
            raise

    def holds(self, pipe: Any) -> bool:
        """Tell whether it is on a pipeline, and not on what that was copied from."""
        return self._pipes.get(id(pipe)) is pipe

    def is_mine(self) -> bool:
        """Tell whether this task or thread has attached it."""
        return self._number in _MINE.get()

    def serves(self, pipe: Any) -> bool:
        """Tell whether it may serve a call that comes from here."""
        return self._scoped != id(pipe) or self.is_mine()

    def _join(self, pipe: Any) -> None:
        if not hasattr(type(pipe), _PLAIN):
            pipe.__class__ = _attached_class(type(pipe))
        self._pipes[id(pipe)] = pipe
        pipe.__dict__[_HELD] = (*_held(pipe), self)

    def _part(self, pipe: Any) -> None:
        del self._pipes[id(pipe)]
        left = _held(pipe)
        if left:
            pipe.__dict__[_HELD] = left
            return
        pipe.__dict__.pop(_HELD, None)
        pipe.__dict__.pop(_ASKED, None)
        pipe.__class__ = vars(type(pipe)).get(_PLAIN, type(pipe))


def share(pipe: Any, session: Any, target: Any = None) -> None:
    """Put a session under what serves its original here; `end` of that takes it away again.

    Args:
        pipe: The original.
        session: Has what a call changes of its own.
        target: What the calls of the session are asked for; by default what those of the original
            are.
    """
    with _LOCK:
        for attachment in _serving(pipe):
            attachment._join(session)
            session.__dict__[_ASKED] = pipe.__dict__.get(_ASKED) if target is None else target


def asked_of(pipe: Any) -> Any:
    """Return what a call of a pipeline from here is asked for, None for what it is attached for.

    A block around the call says it, or else whoever made a session.
    """
    around = asked()
    return getattr(pipe, "__dict__", {}).get(_ASKED) if around is None else around


def controller_of(pipe: Any, controller: Controller) -> Controller:
    """Return a controller for a call of a pipeline from here: a copy, asked for what the call is.

    Raises:
        ConfigError: If the call is asked for something, and the controller decides by itself.
    """
    own, target = copy.copy(controller), asked_of(pipe)
    if target is None:
        return own
    if not isinstance(own, Asked):
        raise ConfigError(
            f"a controller decides by itself: expected no target, received {target} for "
            f"{type(own).__name__}; attach a policy, or ask for nothing"
        )
    own.ask(target)
    return own


def is_attached(pipe: Any) -> bool:
    """Tell whether a call of a pipeline from here runs under a runner now."""
    return any(attachment.serves(pipe) for attachment in _held(pipe))


def plain_call(pipe: Any) -> Any:
    """Return the function that calls a pipeline as it is, attached or not."""
    kind: Any = getattr(type(pipe), _PLAIN, type(pipe))
    return kind.__call__


def _held(pipe: Any) -> tuple[Attachment, ...]:
    """List what is on a pipeline; a foreign copy of its attributes does not count."""
    held: tuple[Attachment, ...] = getattr(pipe, "__dict__", {}).get(_HELD, ())
    return tuple(one for one in held if one.holds(pipe))


def _serving(pipe: Any) -> list[Attachment]:
    """List what serves a pipeline for who asks from here; the last one rules."""
    held = _held(pipe)
    found = sorted((one for one in held if one.serves(pipe)), key=Attachment.is_mine)
    if not found:
        for one in held:
            one.note(_ELSEWHERE)
    return found


def _attached_class(plain: Any) -> type:
    """Derive a class whose `__call__` is a request, and that otherwise is like the plain one."""

    @wraps(plain.__call__)
    def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        serving = _serving(pipe)
        if not serving:
            return plain.__call__(pipe, *args, **kwargs)
        return serving[-1].request(pipe, args, kwargs)

    members: dict[str, Any] = {
        name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")
    }
    members |= {_PLAIN: plain, "__call__": call, "__reduce_ex__": _reduce}
    if hasattr(plain, "__copy__"):
        members["__copy__"] = lambda pipe: copy.copy(_bare(pipe))
    if hasattr(plain, "__deepcopy__"):
        members["__deepcopy__"] = lambda pipe, memo: copy.deepcopy(_bare(pipe), memo)
    return type(plain.__name__, (plain,), members)


def _reduce(pipe: Any, protocol: int) -> Any:
    """Say how a copy is made.

    The way of later protocols holds for objects of one class alone: pickle looks at the original's.
    """
    return _bare(pipe).__reduce_ex__(min(1, protocol))


def _bare(pipe: Any) -> Any:
    """Return a stand-in for an attached pipeline that was never attached."""
    bare = object.__new__(getattr(type(pipe), _PLAIN))
    bare.__dict__.update(pipe.__dict__)
    bare.__dict__.pop(_HELD, None)
    bare.__dict__.pop(_ASKED, None)
    return bare
