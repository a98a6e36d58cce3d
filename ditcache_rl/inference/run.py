"""What comes of attaching: a pipeline under a controller until `detach`, and a summary."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, Guard
from ditcache_rl.errors import ArtifactError
from ditcache_rl.inference.cache import CacheHandle
from ditcache_rl.inference.expected import expected_psnr_db, is_drifted
from ditcache_rl.inference.targets import PolicyController
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import modes_text
from ditcache_rl.types import Mode, Tier

_REMEMBERED_REQUESTS = 1000
_LOG = logging.getLogger(__name__)
#: What hears of every finished request, as a `Recorder` does.
Listener: TypeAlias = Callable[[RequestLog], None]


class Runner(Protocol):
    """What serves the calls of a pipeline from `__enter__` to `__exit__`."""

    notes: list[str]
    """What requests could not make use of, and why; each once."""

    @property
    def failed(self) -> Counter[str]:
        """Calls that raised, by the names of their errors."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Adapter(Protocol):
    """What chooses a schedule for each request and learns from some, as a `Bandit` does."""

    def runner(self, policy: Policy) -> Callable[..., BlockRunner]:
        """Return what makes runners that follow it, from the arguments of `BlockRunner`."""

    def summary(self) -> list[str]:
        """Describe what was learned, in lines."""


class Run:
    """A pipeline under a policy, until `detach`; collects what the requests did.

    Attributes:
        logs: One `RequestLog` per finished request, the last thousand; of one that raised there is
            none.
        cache: The store of the requests.
    """

    def __init__(
        self,
        pipe: Any,
        controller: Controller,
        opened: CacheHandle,
        *,
        make: Callable[..., Runner] = BlockRunner,
        adapt: Adapter | None = None,
        record: Listener | None = None,
        guard: Guard | None = None,
        **options: Any,
    ) -> None:
        self.logs: deque[RequestLog] = deque(maxlen=_REMEMBERED_REQUESTS)
        self.cache = opened.cache
        self._opened = opened
        self._adapt, self._record, self._guard = adapt, record, guard
        self._drifted = 0
        self._followed = controller if isinstance(controller, PolicyController) else None
        try:
            self._runner = make(
                pipe, controller, opened.cache, on_finish=self._finished, guard=guard, **options
            )
            self._runner.__enter__()
        except BaseException:
            opened.cache.close()
            raise

    def detach(self) -> None:
        """Give the pipeline back as it was, and memory and disk; twice is harmless."""
        self._runner.__exit__(None, None, None)
        self.cache.close()

    @property
    def failed(self) -> Counter[str]:
        """Requests that raised, by the names of their errors."""
        return Counter(self._runner.failed)

    @property
    def distrusted(self) -> bool:
        """Whether the policy is followed no more."""
        return self._followed is not None and bool(self._followed.distrust)

    def distrust(self, why: str) -> None:
        """Follow the policy no more: from the next request on everything is computed.

        Args:
            why: What `summary` says.
        """
        if self._followed is not None:
            self._followed.distrust = why

    def _finished(self, log: RequestLog) -> None:
        self._opened.refresh()
        if not log.finite:  # which may be what made it fail
            computed = int((log.modes[:, 0] == Mode.COMPUTE).sum())
            raise ArtifactError(
                "expected finite latents, received nan or infinity from a request that computed "
                f"{computed} of {log.run.site_steps} site steps; compute more, run in a wider "
                "dtype, or export the policy again"
            )
        if log.failed:
            return
        # Whoever keeps a deadline weighs otherwise than the schedule that computes the same.
        if self._followed is not None and _limit(log) is None:
            log.expected_psnr_db = expected_psnr_db(self._followed.policy, log)
            self._watch(self._followed, log)
        if self._followed is not None:
            self._followed.hear(log)
        if self._record is not None:
            self._record(log)
        self.logs.append(log)  # last: whoever hears of it may still make it fail

    def _watch(self, followed: PolicyController, log: RequestLog) -> None:
        """Stop following a policy whose estimates are further off than any of its training."""
        patience = self._guard.patience if self._guard else None
        if patience is None or log.expected_psnr_db is None:
            return
        self._drifted = self._drifted + 1 if is_drifted(followed.policy, log) else 0
        if self._drifted >= patience and not followed.distrust:
            followed.distrust = (
                f"estimates of {self._drifted} requests in a row were further off than those of "
                "any image that the policy was trained on; train it again, or attach it anew"
            )
            _LOG.warning("%s", followed.distrust)

    def _failures(self) -> list[str]:
        """Say how many requests came to nothing."""
        failed = self.failed
        kinds = ", ".join(f"{count} {name}" for name, count in failed.items())
        return [f"failed        {failed.total()}: {kinds}"] if failed else []

    def _guarded(self) -> list[str]:
        """Say how many requests were computed to the end, and why the last one was."""
        reasons = [log.guarded for log in self.logs if log.guarded]
        if not reasons:
            return []
        return [f"guard         {len(reasons)} computed to the end, the last as {reasons[-1]}"]

    def _deadlines(self) -> list[str]:
        """Say how many requests were in time, where there is a deadline."""
        limited = [(log.seconds, limit) for log in self.logs if (limit := _limit(log)) is not None]
        if not limited:
            return []
        in_time = sum(seconds <= limit for seconds, limit in limited)
        limits = {limit for _, limit in limited}
        of_what = f"within {limits.pop():g} s" if len(limits) == 1 else "in time"
        return [f"deadline      {in_time} of {len(limited)} {of_what}"]

    def _targets(self) -> list[str]:
        """Say what requests were asked for, where that is not the same for all."""
        counts = Counter(str(log.target or "no target") for log in self.logs)
        if len(counts) < 2:
            return []
        return ["targets       " + ", ".join(f"{n} of {asked}" for asked, n in counts.items())]

    def _expected(self) -> list[str]:
        """Say what images probably reach, of the requests that it is known of."""
        known = [log.expected_psnr_db for log in self.logs if log.expected_psnr_db is not None]
        if not known:
            return []
        every = np.concatenate(known)
        return [
            f"expected      PSNR {np.median(every):.1f} dB in the median, {every.min():.1f} in the "
            f"worst of {len(every)} images, {known[-1].min():.1f} in the last request"
        ]

    def _notes(self) -> list[str]:
        followed = self._followed.notes() if self._followed else []
        return [*self._opened.notes, *followed, *self._runner.notes]

    def summary(self) -> str:
        """Describe the requests so far: modes, tiers, bytes, seconds, what the last one did."""
        notes = [f"note          {note}" for note in self._notes()]
        if not self.logs:
            return "\n".join(["no request has finished yet", *self._failures(), *notes])
        counts = {mode: sum(int((log.modes == mode).sum()) for log in self.logs) for mode in Mode}
        total = max(1, sum(counts.values()))
        stats, learned = self.cache.stats, self._adapt.summary() if self._adapt else []
        shares = ", ".join(f"{counts[mode] / total:.0%} {mode.name.lower()}" for mode in Mode)
        seconds = float(np.median([log.seconds for log in self.logs]))
        peak = max(log.peak_bytes for log in self.logs)
        return "\n".join(
            [
                f"requests      {len(self.logs)}, median {seconds:.3f} s",
                *self._failures(),
                *self._targets(),
                *self._deadlines(),
                *self._guarded(),
                *self._expected(),
                f"site steps    {total}: {shares}",
                f"device tier   {stats.device_hits} hits, {stats.misses} misses, "
                f"{stats.rejected} rejected, peak {peak / 2**20:.2f} MiB",
                *tier_lines(self.cache),
                *notes,
                *(f"audited       {line}" for line in learned),
                f"last modes    {modes_text(self.logs[-1].modes[:, 0])}",
            ]
        )


def _limit(log: RequestLog) -> float | None:
    """Return the seconds that a request might take by the clock, None without a deadline."""
    limit: float | None = getattr(log.target, "deadline_s", None)
    return limit


def tier_lines(cache: TieredCache) -> list[str]:
    """Describe the slower tiers, as far as there are any."""
    stats, hits = cache.stats, {Tier.HOST: "host_hits", Tier.DISK: "disk_hits"}
    lines = [
        f"{f'{level.name.lower()} tier':13} {getattr(stats, hits[level])} hits, "
        f"cap {tier.cap_bytes / 2**20:.2f} MiB"
        for level, tier in cache.slower.items()
    ]
    if cache.slower:
        lines.append(
            f"transfers     {stats.bytes_written / 2**20:.2f} MiB written, "
            f"{stats.bytes_read / 2**20:.2f} MiB read, {stats.hidden_share:.0%} of load time hidden"
        )
    troubles = {
        name: getattr(stats, name)
        for name in ("evicted", "not_finite", "corrupt", "errors", "given_up", "emptied")
    }
    shown = ", ".join(f"{count} {name}" for name, count in troubles.items() if count)
    return [*lines, f"troubles      {shown}"] if shown else lines
