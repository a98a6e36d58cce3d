"""`cached` and `attach`: the same pipeline call as before, faster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.cache import TieredCache
from ditcache_rl.config import find_policy, memory_bytes, parse_bytes
from ditcache_rl.control import (
    Controller,
    Policy,
    ScheduleFile,
    load_policy,
    load_schedules,
    modes_text,
)
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference.identity import check_identity
from ditcache_rl.inference.targets import PolicyController, ScheduleController, Wish
from ditcache_rl.instrument import BlockRunner, Ranks, RequestLog
from ditcache_rl.types import Mode

_REMEMBERED_REQUESTS = 1000


class Run:
    """A pipeline under a policy, until `detach`; collects what the requests did.

    Attributes:
        logs: One `RequestLog` per finished request, the last thousand.
        cache: The store of the requests.
    """

    def __init__(
        self, pipe: Any, controller: Controller, cache: TieredCache, *, sites: int, **options: Any
    ) -> None:
        self.logs: deque[RequestLog] = deque(maxlen=_REMEMBERED_REQUESTS)
        self.cache = cache
        self._runner = BlockRunner(
            pipe, controller, cache, sites=sites, on_finish=self.logs.append, **options
        )
        self._runner.__enter__()

    def detach(self) -> None:
        """Give the pipeline back as it was; calling it twice is harmless."""
        self._runner.__exit__(None, None, None)

    def summary(self) -> str:
        """Describe the requests so far: modes, bytes, seconds, the last effective mask."""
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
                f"device tier   {stats.hits} hits, {stats.misses} misses, "
                f"{stats.rejected} rejected, peak {peak / 2**20:.2f} MiB",
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
    device_bytes: int | str | None = None,
    sites: int | None = None,
    blocks: str | None = None,
    request_bytes: int | str | None = None,
    ranks: Ranks | None = None,
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
        device_bytes: Cap of the device tier: bytes, "512MiB", or a share of all device memory as
            "70%".
        sites: Parts of the block stack, for a controller; a policy knows its own.
        blocks: Where the blocks are, if they can't be found: "transformer.my_blocks".
        request_bytes: Most bytes that one request may keep. Under a cap, requests beyond those
            that fit compute everything.
        ranks: Processes that run this request together and must decide the same.

    Raises:
        ArtifactError: If the policy is damaged or belongs to another model.
        BudgetError: If the target is out of reach at the first step count of the policy.
        ConfigError: If arguments contradict each other.
        StateError: If the pipeline recomputes its blocks for gradients.
        UnsupportedModelError: If the blocks can't be told.
    """
    cap, share = (
        None if size is None else parse_bytes(size, total=memory_bytes(pipe.device))
        for size in (device_bytes, request_bytes)
    )
    options: dict[str, Any] = {"blocks": blocks, "request_bytes": share, "ranks": ranks}
    given = {"speedup": speedup, "latency_s": latency_s, "budget": budget, "tradeoff": tradeoff}
    asked = {name: value for name, value in given.items() if value is not None}
    cache = TieredCache(cap)
    if isinstance(policy, str | Path):
        policy = open_policy(policy)
    if not isinstance(policy, Policy | ScheduleFile):
        if asked:
            raise ConfigError(
                f"a controller decides by itself: expected no target, received {asked}"
            )
        return Run(pipe, policy, cache, sites=sites or 1, **options)
    if sites is not None:
        raise ConfigError(f"a policy knows its sites: expected none, received {sites}")
    wish = Wish(**(asked or {"speedup": 2.0}))
    if isinstance(policy, ScheduleFile):
        check_identity(policy.model, policy.scheduler, pipe)
        searched = ScheduleController(policy, wish)
        searched.choose(policy.steps[0])
        return Run(pipe, searched, cache, sites=policy.sites, **options)
    check_identity(policy.manifest.model, policy.manifest.scheduler, pipe)
    controller = PolicyController(policy, wish)
    controller.choose(policy.manifest.steps[0])
    return Run(pipe, controller, cache, sites=policy.manifest.sites, **options)


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


def mask_text(log: RequestLog) -> str:
    """Write the effective mask of the first row: a letter per step, sites side by side."""
    return modes_text(log.modes[:, 0])
