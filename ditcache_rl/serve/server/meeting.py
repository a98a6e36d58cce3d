"""Where images that are drawn side by side, each by a call of its own, are computed together.

Of all threads that draw, one has the turn, until it comes to a module where somebody could be
computed with it. There it waits, and gives the turn to the next one that can go on. When none can,
everybody waits, and the oldest of them computes all that go together as rows of one batch. Who
reuses or forecasts goes on meanwhile, and who begins is waited for.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, Protocol

from torch import nn

from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.context import running
from ditcache_rl.instrument.execute import BlockTap
from ditcache_rl.instrument.taps import Tap, install, release, taps_of
from ditcache_rl.serve.server.joint import (
    ModuleCall,
    VectorTap,
    computed_together,
    is_close,
    linear_layers,
)

_LOG = logging.getLogger(__name__)
#: First computations together of each module, which are compared with those alone: at the second,
#: who computes every step is at another one than who does not.
_COMPARED = 3


class Present(Protocol):
    """Who is drawn."""

    forwards: int
    """Modules that were computed for it."""


class WorkDone(NamedTuple):
    """What was done at a meeting so far, or from one moment to another."""

    forwards: int = 0
    """Modules that were computed, for one image or for several at once."""
    rows: int = 0
    """The same, counted once for each image."""
    images: float = 0.0
    """Images that were drawn; of one that has only begun, or only ended, a half."""

    def since(self, before: WorkDone) -> WorkDone:
        """Return what was done after a moment."""
        return WorkDone(
            self.forwards - before.forwards,
            self.rows - before.rows,
            self.images - before.images,
        )


class Meeting:
    """Lets threads draw by turns, and computes together what they have in common.

    Attributes:
        work: What was done so far.
    """

    def __init__(self) -> None:
        self.work = WorkDone()
        self._lock = threading.Lock()
        self._taken = False  # somebody has the turn
        self._ready: deque[threading.Event] = deque()  # who could go on
        self._visits: list[_Visit] = []  # who waits for a module, the oldest first
        self._taps: list[Tap] = []
        self._compared: Counter[Tap] = Counter()
        self._apart: set[Tap] = set()

    def hold(self, pipe: Any) -> None:
        """Hold it at the modules of a pipeline that rows may leave out: blocks, or a denoiser."""
        denoisers = denoisers_of(pipe).values()
        parts = [part for one in denoisers for part in one.modules()]
        tapped = [part for part in parts if any(type(tap) is BlockTap for tap in taps_of(part))]
        self._taps = [install(part, partial(_MeetingTap, self)) for part in tapped or denoisers]
        linear = dict.fromkeys(layer for one in denoisers for layer in linear_layers(one))
        self._taps += [install(layer, VectorTap) for layer in linear]

    def end(self) -> None:
        """Leave the modules as they were."""
        while self._taps:
            release(self._taps.pop())

    @property
    def held(self) -> bool:
        """Whether there are modules at which images meet."""
        return bool(self._taps)

    @contextmanager
    def turn(self, who: Present) -> Iterator[None]:
        """Have the turn to draw, but for the time that is waited for others inside."""
        with self._lock:
            go = None if not self._taken else threading.Event()
            self._taken = True
            if go is not None:
                self._ready.append(go)
        if go is not None:
            go.wait()
        token = _PRESENT.set((self, who))
        self._count(images=0.5)
        try:
            yield
        finally:
            self._count(images=0.5)
            _PRESENT.reset(token)
            self._pass_on()

    def visit(self, tap: Tap, who: Present, args: Any, kwargs: Any) -> Any:
        """Return what a module makes of arguments, computed together with others if may be."""
        visit = _Visit(tap, who, args, kwargs)
        with self._lock:
            self._visits.append(visit)
        self._pass_on()
        visit.go.wait()
        if not visit.done:
            self._compute(visit)
        if visit.error is not None:
            raise visit.error
        return visit.output

    def _pass_on(self) -> None:
        """Give the turn to who can go on, else to the oldest of those who wait for a module."""
        with self._lock:
            if self._ready:
                self._ready.popleft().set()
            elif self._visits:
                self._visits[0].go.set()
            else:
                self._taken = False

    def _compute(self, first: _Visit) -> None:
        """Compute for a visit, and for all that go with it."""
        together, token = [first], _PRESENT.set(None)  # inside of a module nobody meets anybody
        try:
            if first.tap not in self._apart:
                others = [one for one in self._visits if one is not first]
                together += [one for one in others if one.goes_with(first)]
            with running(None):  # whose request it is does not matter below a site
                self._fill(together)
        finally:
            _PRESENT.reset(token)
            self._count(forwards=1, rows=len(together))
            with self._lock:
                for one in together:
                    one.who.forwards += 1
                    self._visits.remove(one)
                self._ready += [one.go for one in together if one is not first]

    def _fill(self, visits: Sequence[_Visit]) -> None:
        tap, parts = visits[0].tap, None
        if len(visits) > 1:
            try:
                parts = computed_together(visits)
            except Exception as error:  # whoever is to blame fails below, alone
                _LOG.warning("images are computed one by one after all: %s", error)
        compared = len(visits) > 1 and self._compared[tap] < _COMPARED
        if parts is None or compared:
            for one in visits:
                one.compute()
        if parts is not None and not compared:
            for one, part in zip(visits, parts, strict=True):
                one.output, one.done = part, True
        elif compared and not any(one.error for one in visits):
            self._compared[tap] += 1
            alone = [one.output for one in visits]
            if parts is None or not all(map(is_close, parts, alone)):
                self._apart.add(tap)
                _LOG.warning("%s is computed for one image at a time", type(tap.module).__name__)

    def _count(self, *, forwards: int = 0, rows: int = 0, images: float = 0.0) -> None:
        had = self.work
        self.work = WorkDone(had.forwards + forwards, had.rows + rows, had.images + images)


#: The meeting that this thread draws at, and for whom.
_PRESENT: ContextVar[tuple[Meeting, Present] | None] = ContextVar(
    "ditcache_rl_present", default=None
)


class _MeetingTap(Tap):
    """Stands in for a module at which images meet; for who draws elsewhere it is the plain one."""

    depth = 2  # behind those that decide whether it is computed

    def __init__(self, meeting: Meeting, module: nn.Module) -> None:
        super().__init__(module)
        self._meeting = meeting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Meet the others."""
        meeting, who = _PRESENT.get() or (None, None)
        if meeting is not self._meeting or who is None:
            return self.plain(*args, **kwargs)
        return meeting.visit(self, who, args, kwargs)


class _Visit(ModuleCall):
    """A module that an image waits for.

    Attributes:
        who: Is drawn.
        go: Set when it may go on, computed or to compute.
    """

    def __init__(self, tap: Tap, who: Present, args: Any, kwargs: Any) -> None:
        super().__init__(tap, args, kwargs)
        self.who, self.go = who, threading.Event()
