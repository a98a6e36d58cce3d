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
from torch import Tensor, nn

from ditcache_rl.cache.slab import Form
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.types import EntryKey

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
    tier: SlotTier,
    *,
    read_back: Callable[[Tensor], object],
    compute_s_per_byte: float,
    make_cold: Callable[[], None] | None = None,
    device: torch.device,
) -> Verdict:
    """Write and read a trial entry, and compare with computing it.

    Args:
        tier: To be tried; must be empty.
        read_back: Takes host bytes to the device.
        compute_s_per_byte: What reading competes with.
        make_cold: Makes the next read come from the medium itself.
        device: Where the payload comes from.
    """
    nbytes = min(_TRIAL_BYTES, tier.cap_bytes)
    payload = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    slot = tier.reserve(nbytes, Form(payload.shape, payload.dtype, "none"))
    if slot is None or not nbytes:
        return Verdict(False, 0.0, "it has no room for an entry")
    seconds = []
    for _ in range(_TRIALS):
        tier.write(slot, _TRIAL_KEY, payload)
        if make_cold is not None:
            make_cold()
        seconds.append(
            _timed(lambda: read_back(tier.read(slot, _TRIAL_KEY)), device, repeats=1)
        )
    tier.settle()
    tier.release(slot)
    bytes_per_s = nbytes / max(median(seconds), 1e-9)
    ratio = 1 / bytes_per_s / compute_s_per_byte
    shown = f"reading takes {ratio:.2g} of the time of computing, at {bytes_per_s / 1e9:.2g} GB/s"
    return Verdict(ratio < _PAYS_BELOW, bytes_per_s, shown)


def _timed(call: Callable[[], object], device: torch.device, *, repeats: int = _TRIALS) -> float:
    seconds = []
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        call()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
