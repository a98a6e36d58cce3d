"""What moving an entry takes, as shares of the time that computing it takes.

Measured on this machine, or reckoned for another one by its data sheet. Only the ratio matters to
whoever decides where an entry is kept, so entries of a small model may stand for those of a large
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.store import TieredCache
from ditcache_rl.machine import synchronize
from ditcache_rl.types import EntryKey, Tier

_TRIALS = 5
_TRIAL_KEY = EntryKey(-1, 0, 0, 0)
#: Share of a link's nominal rate that copies from pinned memory reach, rounded down.
_LINK_SHARE = 0.8
#: Share of the nominal operations that a block reaches in bf16.
_COMPUTE_SHARE = 0.5
#: A pinned copy and a read of a flash disk begin after so long.
_HOST_LATENCY_S, _DISK_LATENCY_S = 10e-6, 100e-6
#: A block of FLUX.1-dev at 1024 px: tokens of image and text, channels, bytes of a number.
_TOKENS, _WIDTH, _ITEM_BYTES = 4096 + 512, 3072, 2


class _Machine(NamedTuple):
    """Nominal rates of a machine."""

    operations_per_s: float
    """Dense bf16."""
    host_bytes_per_s: float
    """Of its link, in one direction."""
    disk_bytes_per_s: float
    """Of the link of its flash disk."""


#: Sources: dense bf16 operations and the 128 GB/s in both directions of the H100 SXM5 from
#: glennklockwood.com/garden/processors/h100, operations of the RTX 4090 from
#: waredb.com/processor/nvidia-geforce-rtx-4090; its link is PCIe 4.0 x16, half of the former.
#: The disk is on four lanes of PCIe 4.0: an eighth of the former.
_MACHINES = {
    "h100": _Machine(989.4e12, 64e9, 8e9),
    "rtx4090": _Machine(165.2e12, 32e9, 8e9),
}


class Transfers(NamedTuple):
    """Seconds of moving an entry over those of computing it."""

    host_put: float = 0.0
    host_get: float = 0.0
    disk_put: float = 0.0
    disk_get: float = 0.0

    def put(self, tier: Tier) -> float:
        """Return what writing an entry there takes; nothing on the device, nothing to drop it."""
        return {Tier.HOST: self.host_put, Tier.DISK: self.disk_put}.get(tier, 0.0)

    def get(self, tier: Tier) -> float:
        """Return what reading an entry there takes."""
        return {Tier.HOST: self.host_get, Tier.DISK: self.disk_get}.get(tier, 0.0)


def named_transfers(machine: str) -> Transfers:
    """Reckon the transfers of a block of a large model on one of `config.MACHINES`."""
    rates = _MACHINES[machine]
    operations = 24 * _TOKENS * _WIDTH**2 + 4 * _TOKENS**2 * _WIDTH
    compute_s = operations / (_COMPUTE_SHARE * rates.operations_per_s)
    nbytes = _TOKENS * _WIDTH * _ITEM_BYTES
    host_s = _HOST_LATENCY_S + nbytes / (_LINK_SHARE * rates.host_bytes_per_s)
    disk_s = _DISK_LATENCY_S + nbytes / (_LINK_SHARE * rates.disk_bytes_per_s)
    host, disk = host_s / compute_s, disk_s / compute_s
    return Transfers(host, host, disk, disk)


def measure_transfers(
    cache: TieredCache, nbytes: int, *, compute_s: float, device: torch.device
) -> Transfers:
    """Time puts into the slower tiers that are there, and gets out of them; a disk is read cold.

    Args:
        cache: An empty one.
        nbytes: Of an entry.
        compute_s: Seconds of computing one.
        device: Where entries come from and go to.
    """
    payload = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    shares = {Tier.HOST: (0.0, 0.0), Tier.DISK: (0.0, 0.0)}
    for level, tier in cache.slower.items():
        puts, gets = [], []
        for _ in range(_TRIALS):
            puts.append(_seconds(partial(cache.put, _TRIAL_KEY, payload, level), device))
            if isinstance(tier, DiskTier):
                tier.make_cold()
            gets.append(_seconds(partial(_read, cache, level), device))
            cache.discard(_TRIAL_KEY)
        shares[level] = median(puts) / compute_s, median(gets) / compute_s
    return Transfers(*shares[Tier.HOST], *shares[Tier.DISK])


def _read(cache: TieredCache, level: Tier) -> None:
    found = cache.get(_TRIAL_KEY)
    if level is Tier.HOST and found is not None and not found.is_cuda:
        found.clone()  # reading in place moves nothing; the model will


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started
