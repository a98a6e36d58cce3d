"""Run every call of a pipeline as a request under a controller, and put everything back.

The runner executes decisions and takes none. Several runners may share a denoiser, and a pipeline
may be attached more than once: `attachment` says which of them rules, and they may leave in any
order.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch import nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, Guard, GuardedController
from ditcache_rl.instrument.attachment import Attachment, controller_of, plain_call
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.calls import rows_of_call
from ditcache_rl.instrument.context import visiting
from ditcache_rl.instrument.denoisers import Denoisers
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.instrument.log import RequestLog
from ditcache_rl.instrument.ranks import Ranks
from ditcache_rl.instrument.request import Request

_LOG = logging.getLogger(__name__)
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
        guard: What requests are watched for, whoever decides.
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
        guard: Guard | None = None,
        on_finish: Callable[[RequestLog], None] | None = None,
    ) -> None:
        self._pipe = pipe
        self._controller = controller
        self._cache = cache
        self._sites = sites
        self._request_bytes = request_bytes
        self._ranks, self._guard = ranks, guard
        self._on_finish = on_finish
        self.notes: list[str] = []
        self._active = 0
        self._entered = False
        self._attachment = Attachment(self.request, self._note)
        self._denoisers = Denoisers(
            pipe, sites=sites, probe_blocks=controller.probe_blocks, blocks=blocks
        )
        self._changes = 0
        self._looking = threading.Lock()

    @property
    def failed(self) -> Counter[str]:
        """Calls that raised, by the names of their errors."""
        return self._attachment.failed

    @property
    def layouts(self) -> list[Layout]:
        """How the denoisers of the pipeline are seen."""
        return self._denoisers.layouts

    def __enter__(self) -> Self:
        """Install; `UnsupportedModelError` and `StateError` are those of `install_layout`."""
        if self._entered:
            return self
        self._denoisers.install()
        try:
            self._check_model("before")
        except BaseException:
            self._denoisers.remove()
            raise
        self._attachment.begin(self._pipe)
        self._entered = True
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
        self._attachment.end()
        self._denoisers.remove()

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
        for note in self._denoisers.begin(pipe):
            self._note(note)
        try:
            self._check_model("before")
            rows = rows_of_call(plain, args, kwargs)
            own = controller_of(pipe, controller or self._controller)
            watched = None if self._guard is None else GuardedController(own, self._guard)
            admitted = self._admit()
            request = Request(
                watched or own,
                self._cache,
                pipe.scheduler,
                self._sites,
                rows=rows,
                max_bytes=self._request_bytes,
                admitted=admitted,
                ranks=self._ranks,
                changes=self._count_changes,
            )
            request.layouts = {tap: layout for layout in self.layouts for tap in layout.taps[:1]}
            try:
                with request.current():
                    given = {name: visiting(value) for name, value in kwargs.items()}
                    return plain(pipe, *map(visiting, args), **given)
            except BaseException as error:
                for log in request.logs:
                    log.failed = type(error).__name__
                raise
            finally:
                with _LOCK:
                    self._active -= admitted
                self._check_model("during")
                for note in request.notes:
                    self._note(note)
                for log, reason in zip(
                    request.logs, watched.reasons if watched else (), strict=False
                ):
                    log.guarded = reason
                if self._on_finish is not None:
                    for log in request.logs:
                        self._on_finish(log)
        finally:
            self._denoisers.end()

    def _note(self, note: str) -> None:
        """Keep what somebody should know, and warn of it once."""
        if note not in self.notes:
            self.notes.append(note)
            _LOG.warning("%s", note)

    def _check_model(self, when: str) -> None:
        """Empty the cache if the model is no longer what its entries were computed with."""
        with self._looking:
            changed = self._denoisers.changes()
            if changed:
                self._cache.empty(f"the model changed {when} a request: {changed}")
                self._changes += 1

    def _count_changes(self, closely: bool) -> int:
        """Tell how often the model has changed so far.

        Args:
            closely: Code of the user has run since the last step.
        """
        if not self._denoisers.as_before(closely=closely):
            self._check_model("during")
        if closely:
            self._denoisers.restore()
        return self._changes

    def _admit(self) -> bool:
        """Tell whether another request may keep something, and count it."""
        cap = self._cache.device.cap_bytes
        with _LOCK:
            wanted = (self._active + 1) * (self._request_bytes or 0)
            if cap is not None and wanted > cap:
                return False
            self._active += 1
            return True


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the first denoiser of a pipeline.

    Raises:
        UnsupportedModelError: If there is none.
    """
    return next(iter(denoisers_of(pipe).values()))
