"""Does a slower tier pay? Measured when a pipeline is attached, in a fraction of a second.

Reading an entry back must take less time than computing it again. Per token, a site of P parameters
computes about 2 P operations and its entry has d numbers, so the ratio of the two times does not
depend on the size of the image; attention over many tokens only makes computing dearer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.host import HostTier
from ditcache_rl.cache.store import TieredCache
from ditcache_rl.machine import synchronize
from ditcache_rl.types import EntryKey, Tier

#: Above this ratio of load to compute time a tier sleeps: what it saves is lost in the noise.
_PAYS_BELOW = 0.8
#: Bytes of a trial copy: large against the latency, small against the time that attaching may take.
_TRIAL_BYTES = 4 << 20
_TRIALS = 3
#: Tokens of the trial multiplication; enough to keep a GPU's units busy.
_TRIAL_TOKENS = 1024
_TRIAL_KEY = EntryKey(-1, 0, 0, 0)


class Verdict(NamedTuple):
    """Whether a tier is worth using."""

    pays: bool
    bytes_per_s: float
    reason: str


def compute_s_per_byte(blocks: nn.Module, width: int, dtype: torch.dtype) -> float:
    """Estimate the seconds that computing one byte of a site's entry takes.

    Args:
        blocks: The blocks of the site.
        width: Numbers per token of its entry.
        dtype: Of the computation.
    """
    parameters = list(blocks.parameters())
    device = parameters[0].device
    left = torch.ones(_TRIAL_TOKENS, width, dtype=dtype, device=device)
    right = torch.ones(width, 4 * width, dtype=dtype, device=device)
    seconds = _timed(lambda: left @ right, device)
    operations_per_s = 2 * _TRIAL_TOKENS * width * 4 * width / seconds
    operations = 2 * sum(p.numel() for p in parameters)
    return operations / operations_per_s / (width * dtype.itemsize)


def try_tier(
    cache: TieredCache, level: Tier, *, compute_s_per_byte: float, device: torch.device
) -> Verdict:
    """Write a trial entry to a tier, read it back, and compare with computing it.

    Args:
        cache: An empty one.
        level: The tier to be tried; a disk is read cold.
        compute_s_per_byte: What reading competes with.
        device: Where entries come from and go to.
    """
    tier = cache.slower[level]
    nbytes = min(_TRIAL_BYTES, tier.cap_bytes // 2)
    payload = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(_TRIALS):
        if not cache.put(_TRIAL_KEY, payload, level) or _TRIAL_KEY not in tier:
            cache.discard(_TRIAL_KEY)
            return Verdict(False, 0.0, "a trial entry could not be kept")
        if isinstance(tier, DiskTier):
            try:
                tier.make_cold()
            except OSError as error:
                cache.discard(_TRIAL_KEY)
                return Verdict(False, 0.0, f"it cannot be written out: {error}")
        synchronize(device)
        started = time.perf_counter()
        found = cache.get(_TRIAL_KEY)
        if isinstance(tier, HostTier) and found is not None and not found.is_cuda:
            found = found.clone()  # reading in place moves nothing; the model will
        synchronize(device)
        seconds.append(time.perf_counter() - started)
        cache.discard(_TRIAL_KEY)
    bytes_per_s = nbytes / max(median(seconds), 1e-9)
    ratio = 1 / bytes_per_s / compute_s_per_byte
    reason = f"reading takes {ratio:.2g} of the time of computing, at {bytes_per_s / 1e9:.2g} GB/s"
    return Verdict(ratio < _PAYS_BELOW, bytes_per_s, reason)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_TRIALS):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
