"""`cached` and `attach`: the same pipeline call as before, faster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.cache import TieredCache
from ditcache_rl.config import find_policy, memory_bytes, parse_bytes
from ditcache_rl.control import Controller
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference.cache import CacheHandle, open_cache
from ditcache_rl.inference.targets import KnownPlans, PolicyController, ScheduleController, Wish
from ditcache_rl.instrument import BlockRunner, Ranks, RequestLog
from ditcache_rl.pipelines import check_identity
from ditcache_rl.policy import Policy, ScheduleFile, load_policy, load_schedules, modes_text
from ditcache_rl.serve import Bandit, Recorder
from ditcache_rl.serve.adaptive import AdaptiveRunner
from ditcache_rl.types import Mode, Tier

_REMEMBERED_REQUESTS = 1000


class Run:
    """A pipeline under a policy, until `detach`; collects what the requests did.

    Attributes:
        logs: One `RequestLog` per finished request, the last thousand.
        cache: The store of the requests.
    """

    def __init__(
        self,
        pipe: Any,
        controller: Controller,
        opened: CacheHandle,
        *,
        sites: int,
        adapt: tuple[Policy | ScheduleFile, Bandit] | None = None,
        recorder: Recorder | None = None,
        **options: Any,
    ) -> None:
        self.logs: deque[RequestLog] = deque(maxlen=_REMEMBERED_REQUESTS)
        self.cache = opened.cache
        self._opened = opened
        self._recorder = recorder
        self._bandit = adapt[1] if adapt else None
        self._plans: KnownPlans | None = None
        if isinstance(controller, PolicyController | ScheduleController):
            self._plans = controller.plans
        make = partial(AdaptiveRunner, *adapt) if adapt else BlockRunner
        self._runner = make(
            pipe, controller, opened.cache, sites=sites, on_finish=self._finished, **options
        )
        try:
            self._runner.__enter__()
        except BaseException:
            opened.cache.close()
            raise

    def detach(self) -> None:
        """Give the pipeline back as it was, and memory and disk; twice is harmless."""
        self._runner.__exit__(None, None, None)
        self.cache.close()

    def _finished(self, log: RequestLog) -> None:
        self.logs.append(log)
        if self._recorder is not None:
            self._recorder.note(log)
        self._opened.refresh()

    def _bandit_lines(self) -> list[str]:
        if self._bandit is None:
            return []
        return [*([self._bandit.note] if self._bandit.note else []), *self._bandit.summary()]

    def _notes(self) -> list[str]:
        return [*self._opened.notes, *(self._plans.notes() if self._plans else [])]

    def summary(self) -> str:
        """Describe the requests so far: modes, tiers, bytes, seconds, the last effective mask."""
        if not self.logs:
            return "no request has finished yet"
        counts = {mode: sum(int((log.modes == mode).sum()) for log in self.logs) for mode in Mode}
        total = max(1, sum(counts.values()))
        stats = self.cache.stats
        shares = ", ".join(f"{counts[mode] / total:.0%} {mode.name.lower()}" for mode in Mode)
        seconds = float(np.median([log.seconds for log in self.logs]))
        peak = max(log.peak_bytes for log in self.logs)
        return "\n".join(
            [
                f"requests      {len(self.logs)}, median {seconds:.3f} s",
                f"site steps    {total}: {shares}",
                f"device tier   {stats.device_hits} hits, {stats.misses} misses, "
                f"{stats.rejected} rejected, peak {peak / 2**20:.2f} MiB",
                *tier_lines(self.cache),
                *(f"note          {note}" for note in self._notes()),
                *(f"audited       {line}" for line in self._bandit_lines()),
                f"last mask     {mask_text(self.logs[-1])}",
            ]
        )


def attach(
    pipe: Any,
    policy: str | Path | Policy | ScheduleFile | Controller,
    *,
    speedup: float | None = None,
    latency_s: float | None = None,
    budget: float | None = None,
    tradeoff: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    device_bytes: int | str | None = None,
    host_bytes: int | str | None = None,
    disk_bytes: int | str | None = None,
    cache_dir: str | Path | None = None,
    storage: str = "none",
    sites: int | None = None,
    blocks: str | None = None,
    request_bytes: int | str | None = None,
    ranks: Ranks | None = None,
    adapt: Bandit | None = None,
    record: str | Path | None = None,
) -> Run:
    """Run every call of a pipeline under a policy, until `Run.detach`.

    Args:
        pipe: A diffusers pipeline; used as it is, and left as it was.
        policy: A policy folder, the name of a shipped one, a schedule file, either of them loaded,
            or a controller.
        speedup: Target; 2.0 if no target is given. By the cost model that is stored in the policy.
        latency_s: Target: seconds per call at batch 1.
        budget: Target: share of full compute, in (0, 1].
        tradeoff: Target: weight on time / reference time against quality.
        min_psnr: Target: dB against full compute that 95 % of the images reach, in least time; as
            measured on the policy's select prompts.
        min_ssim: Target: likewise, in SSIM.
        device_bytes: Cap of the device tier: bytes, "512MiB", or a share of all device memory as
            "70%". What is free now, and later, limits it further.
        host_bytes: Size of the host tier, likewise; None for none.
        disk_bytes: Size of the disk tier, likewise; None for none.
        cache_dir: Directory of the disk tier: this user's, and writable by nobody else. It is made
            if it is not there; nothing is left in it.
        storage: Format in host and disk tier: "none" keeps every bit; "bf16", "fp8" and "int8" take
            fewer bytes and lose precision.
        sites: Parts of the block stack, for a controller; a policy knows its own.
        blocks: Where the blocks are, for a controller, if they can't be found:
            "transformer.my_blocks". "transformer" alone caches what the transformer returns.
        request_bytes: Most bytes that one request may keep. Under a cap, requests beyond those
            that fit compute everything.
        ranks: Processes that run this request together and must decide the same.
        adapt: Learns from audited requests which schedule of the policy to take, in place of the
            target; that serves while `adapt.active` is False.
        record: File to which every request adds a line about what it read and wrote; see
            `read_histories`.

    Raises:
        ArtifactError: If the policy is damaged, or belongs to another model.
        BudgetError: If the target is out of reach at the first step count of the policy.
        ConfigError: If arguments contradict each other.
        StateError: If the pipeline recomputes its blocks for gradients.
        UnsupportedModelError: If the blocks can't be told.
    """
    total = memory_bytes(pipe.device)
    share = None if request_bytes is None else parse_bytes(request_bytes, total=total)
    given = {
        "speedup": speedup,
        "latency_s": latency_s,
        "budget": budget,
        "tradeoff": tradeoff,
        "min_psnr": min_psnr,
        "min_ssim": min_ssim,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    if isinstance(policy, str | Path):
        policy = open_policy(policy)
    controller: Controller
    if isinstance(policy, Policy | ScheduleFile):
        if sites is not None or blocks is not None:
            raise ConfigError(
                "a policy knows its sites and blocks: expected none, received "
                f"sites {sites} and blocks {blocks!r}"
            )
        if adapt is not None and ranks is not None:
            raise ConfigError(
                "expected ranks or adapt, received both: ranks that measure times of their own "
                "would choose different schedules"
            )
        controller, sites, blocks = _controller_of(
            pipe, policy, Wish(**(asked or {"speedup": 2.0}))
        )
        adaptive = None if adapt is None else (policy, adapt)
    else:
        if adapt is not None:
            raise ConfigError(
                "adapt chooses among the schedules of a policy or schedule file, received the "
                f"controller {type(policy).__name__}"
            )
        if asked:
            raise ConfigError(
                f"a controller decides by itself: expected no target, received {asked}"
            )
        controller, sites, adaptive = policy, sites or 1, None
    recorder = None if record is None else Recorder(record)
    opened = open_cache(
        pipe,
        sites=sites,
        device_bytes=device_bytes,
        host_bytes=host_bytes,
        disk_bytes=disk_bytes,
        cache_dir=cache_dir,
        storage=storage,
    )
    return Run(
        pipe,
        controller,
        opened,
        sites=sites,
        blocks=blocks,
        request_bytes=share,
        ranks=ranks,
        adapt=adaptive,
        recorder=recorder,
    )


def _controller_of(
    pipe: Any, policy: Policy | ScheduleFile, wish: Wish
) -> tuple[PolicyController | ScheduleController, int, str | None]:
    """Return the controller of a policy that was made for this pipeline, its sites and blocks."""
    chosen: PolicyController | ScheduleController
    if isinstance(policy, ScheduleFile):
        check_identity(policy.model, policy.scheduler, pipe)
        chosen, known = ScheduleController(policy, wish), policy.leveled()
        sites, blocks = policy.sites, policy.blocks
    else:
        manifest = policy.manifest
        check_identity(manifest.model, manifest.scheduler, pipe)
        chosen, known = PolicyController(policy, wish), policy.leveled
        sites, blocks = manifest.sites, manifest.blocks
    chosen.choose(known[0].sigmas)
    return chosen, sites, blocks


def open_policy(source: str | Path) -> Policy | ScheduleFile:
    """Open a policy folder, a shipped policy by its name, or a schedule file.

    Raises:
        ArtifactError: If it is damaged.
        ConfigError: If there is no such thing.
    """
    if Path(source).is_file():
        return load_schedules(Path(source))
    return load_policy(find_policy(source))


@contextmanager
def cached(
    pipe: Any, policy: str | Path | Policy | ScheduleFile | Controller, **options: Any
) -> Iterator[Run]:
    """Attach inside a `with` block; arguments and errors are those of `attach`."""
    run = attach(pipe, policy, **options)
    try:
        yield run
    finally:
        run.detach()


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


def mask_text(log: RequestLog) -> str:
    """Write the effective mask of the first row: a letter per step, sites side by side."""
    return modes_text(log.modes[:, 0])
