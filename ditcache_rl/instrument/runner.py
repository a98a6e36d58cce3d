"""Run every call of a pipeline as a request under a controller, and put everything back.

The runner executes decisions and takes none. Several runners may share a denoiser, and a pipeline
may be attached more than once: the runner that came last rules, and they may leave in any order.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, Self

from torch import nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.instrument.blocks import denoisers_of, read_paths
from ditcache_rl.instrument.calls import rows_of_call
from ditcache_rl.instrument.context import visiting
from ditcache_rl.instrument.fingerprint import Fingerprint, ModelWatch, changed_parts
from ditcache_rl.instrument.install import check_denoiser, install_layout, remove_layout
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.instrument.log import RequestLog
from ditcache_rl.instrument.ranks import Ranks
from ditcache_rl.instrument.request import Request

_LOG = logging.getLogger(__name__)
_RUNNERS = "_ditcache_rl_runners"
_LOCK = threading.Lock()


class BlockRunner:
    """Run every call of a pipeline as a request under a controller, for as long as it is entered.

    Each request works on a shallow copy of the controller, so that one runner serves many threads.

    Args:
        pipe: A diffusers pipeline with a `scheduler` and at least one denoiser. It is used as it
            is: its instances are changed on entering and restored on leaving, its classes never.
        controller: Decides; its `probe_blocks` are always computed.
        cache: Where residuals are kept.
        sites: Parts of each block stack that are cached separately.
        blocks: Where the blocks are, if names and a forward pass don't tell: `transformer.blocks`;
            `transformer` alone caches what it returns. None or "" to find them.
        request_bytes: Most bytes that a request may keep. Where the device tier has a cap, only as
            many requests at a time as fit are cached; the others compute everything.
        ranks: Processes that must decide the same.
        on_finish: Called with the log of every run of a request, also of one that failed.

    Attributes:
        notes: What requests could not make use of, and why; each once.

    Raises:
        ConfigError: If the stack can't have that many sites, or `blocks` leads to no denoiser.
        UnsupportedModelError: If there is no denoiser, or its blocks can't be told.
    """

    def __init__(
        self,
        pipe: Any,
        controller: Controller,
        cache: TieredCache,
        *,
        sites: int = 1,
        blocks: str | None = None,
        request_bytes: int | None = None,
        ranks: Ranks | None = None,
        on_finish: Callable[[RequestLog], None] | None = None,
    ) -> None:
        self._pipe = pipe
        self._controller = controller
        self._cache = cache
        self._sites = sites
        self._request_bytes = request_bytes
        self._ranks = ranks
        self._on_finish = on_finish
        self.notes: list[str] = []
        self._active = 0
        self._entered = False
        self.layouts = [
            Layout(
                name,
                denoiser,
                key,
                sites=sites,
                probe_blocks=controller.probe_blocks,
                blocks=read_paths(blocks).get(name),
            )
            for key, (name, denoiser) in enumerate(denoisers_of(pipe, blocks).items())
        ]
        self._watches = [ModelWatch(layout.denoiser) for layout in self.layouts]
        self._seen: list[Fingerprint] = []

    def __enter__(self) -> Self:
        """Install; `UnsupportedModelError` and `StateError` are those of `install_layout`."""
        if self._entered:
            return self
        try:
            for layout in self.layouts:
                install_layout(layout)
        except BaseException:
            self._remove_layouts()
            raise
        with _LOCK:
            runners = self._pipe.__dict__.setdefault(_RUNNERS, [])
            if not runners:
                self._pipe.__class__ = _request_class(type(self._pipe))
            runners.append(self)
        self._entered = True
        self._check_model(self._pipe.scheduler, "before")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore; calling it twice is harmless."""
        if not self._entered:
            return
        self._entered = False
        with _LOCK:
            runners = self._pipe.__dict__[_RUNNERS]
            runners.remove(self)
            if not runners:
                self._pipe.__class__ = _plain_class(type(self._pipe))
                del self._pipe.__dict__[_RUNNERS]
        self._remove_layouts()

    def request(
        self,
        pipe: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        controller: Controller | None = None,
    ) -> Any:
        """Run one call of the pipeline, under the runner's controller if no other is given."""
        plain = plain_call(pipe)
        for layout in self.layouts:
            check_denoiser(layout)
        admitted = self._admit()
        request = Request(
            copy.copy(controller or self._controller),
            self._cache,
            pipe.scheduler,
            self._sites,
            rows=rows_of_call(plain, args, kwargs),
            max_bytes=self._request_bytes,
            admitted=admitted,
            ranks=self._ranks,
        )
        request.layouts = {tap: layout for layout in self.layouts for tap in layout.taps[:1]}
        self._check_model(pipe.scheduler, "before")
        try:
            with request.current():
                given = {name: visiting(value) for name, value in kwargs.items()}
                return plain(pipe, *map(visiting, args), **given)
        finally:
            self._check_model(pipe.scheduler, "during")
            with _LOCK:
                self._active -= admitted
            for note in request.notes:
                self._note(note)
            if self._on_finish is not None:
                for log in request.logs:
                    self._on_finish(log)

    def _note(self, note: str) -> None:
        """Keep what somebody should know, and warn of it once."""
        if note not in self.notes:
            self.notes.append(note)
            _LOG.warning("%s", note)

    def _check_model(self, scheduler: Any, when: str) -> None:
        """Empty the cache if the model is no longer what its entries were computed with."""
        before, self._seen = self._seen, [watch.look(scheduler) for watch in self._watches]
        parts = [changed_parts(*looks) for looks in zip(before, self._seen, strict=False)]
        if any(parts):
            changed = ", ".join(part for part in parts if part)
            self._cache.empty(f"the model changed {when} a request: {changed}")

    def _admit(self) -> bool:
        """Tell whether another request may keep something, and count it."""
        cap = self._cache.device.cap_bytes
        with _LOCK:
            wanted = (self._active + 1) * (self._request_bytes or 0)
            if cap is not None and wanted > cap:
                return False
            self._active += 1
            return True

    def _remove_layouts(self) -> None:
        for layout in self.layouts:
            remove_layout(layout)


def _request_class(plain: type) -> type:
    """Derive a class whose `__call__` is a request, and that looks like the plain one."""

    @wraps(plain.__call__)
    def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        runners = pipe.__dict__.get(_RUNNERS)
        if not runners:  # a copy of a pipeline that has been detached since
            return plain.__call__(pipe, *args, **kwargs)
        return runners[-1].request(pipe, args, kwargs)

    like = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (plain,), {"__call__": call, **like})


def _plain_class(attached: type) -> Any:
    """Return what `_request_class` was derived from."""
    return attached.__bases__[0]


def plain_call(pipe: Any) -> Any:
    """Return the function that calls an attached pipeline as it is."""
    return _plain_class(type(pipe)).__call__


def is_attached(pipe: Any) -> bool:
    """Tell whether a pipeline runs under a runner now."""
    return bool(getattr(pipe, "__dict__", {}).get(_RUNNERS))


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the first denoiser of a pipeline.

    Raises:
        UnsupportedModelError: If there is none.
    """
    return next(iter(denoisers_of(pipe).values()))
