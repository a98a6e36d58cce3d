"""Open the cache of a pipeline: caps that hold here, and only the tiers that pay here."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ditcache_rl.cache import (
    LOSSLESS,
    Caps,
    DeviceTier,
    Memory,
    TieredCache,
    codec_pays,
    compute_s_per_byte,
    find_codec,
    lower_caps,
    try_tier,
)
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.tier import SlotTier
from ditcache_rl.instrument.blocks import find_stack
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.types import Tier

_LOG = logging.getLogger(__name__)
#: Relative change of what is free that is worth resizing for.
_STIR = 0.05
#: Numbers of the trial entry of a codec.
_SAMPLE = 1 << 20


class CacheHandle:
    """A cache, what was asked for, and what came of it.

    Attributes:
        cache: The store.
        notes: What was lowered, and which tiers sleep and why; one line each.
    """

    def __init__(
        self, cache: TieredCache, asked: Caps, device: torch.device, notes: Sequence[str] = ()
    ) -> None:
        self.cache = cache
        self.notes = list(notes)
        self._asked, self._device = asked, device

    def refresh(self) -> None:
        """Follow what is free now: others take memory and disk, and give them back."""
        tiers: dict[Tier, DeviceTier | SlotTier] = {Tier.DEVICE: self.cache.device}
        tiers |= self.cache.slower
        used = {level: tier.used_bytes for level, tier in tiers.items()}
        disk, io = tiers.get(Tier.DISK), None
        if isinstance(disk, DiskTier):
            used[Tier.DISK], io = disk.cap_bytes, disk.io  # its blocks are taken beforehand
        caps = lower_caps(self._asked, self._device, used=used, io=io)
        for level, tier in tiers.items():
            asked, now = self._asked.of(level), caps.of(level)
            if asked is None or now is None or abs(now - (tier.cap_bytes or 0)) <= _STIR * asked:
                continue
            try:
                self.cache.resize(level, now)
            except (OSError, MemoryError) as error:
                _LOG.warning("the %s tier keeps its size: %s", level.name.lower(), str(error))


def open_cache(pipe: Any, memory: Memory, *, sites: int) -> CacheHandle:
    """Make the cache of a pipeline.

    Args:
        pipe: Whose residuals it will keep.
        memory: What it may take.
        sites: Parts of the pipeline's block stack.

    Raises:
        ConfigError: If the machine has less than that, or the directory is not fit.
    """
    codec = find_codec(memory.storage)
    device = torch.device(pipe.device)
    asked = memory.caps(device)
    caps = lower_caps(asked, device)
    if caps.host_bytes is None and caps.disk_bytes is None:
        return _said(CacheHandle(TieredCache(caps.device_bytes), asked, device, caps.notes))
    denoiser = denoiser_of(pipe)
    stack = find_stack(denoiser)
    # Blocks that only a forward pass can tell are nearly all that there is.
    blocks = denoiser if stack is None else nn.ModuleList(stack.blocks)
    width, dtype = _width(blocks), next(denoiser.parameters()).dtype
    seconds = compute_s_per_byte(blocks, width, dtype) / sites
    cache = TieredCache.under(caps, device=device, codec=codec, compute_s_per_byte=seconds)
    handle = CacheHandle(cache, asked, device, caps.notes)
    slowest = float("inf")
    for level in list(cache.slower):
        verdict = try_tier(cache, level, compute_s_per_byte=seconds, device=device)
        if verdict.pays:
            slowest = min(slowest, verdict.bytes_per_s)
        else:
            cache.retire(level)
            handle.notes.append(f"{level.name.lower()} tier sleeps: {verdict.reason}")
    if codec is not LOSSLESS and cache.slower:
        sample = torch.ones(_SAMPLE, dtype=dtype, device=device)
        if not codec_pays(codec, sample, slowest):
            cache.keep_every_bit()
            handle.notes.append(
                f"storage {codec.name} sleeps: encoding costs more than bytes do here"
            )
    return _said(handle)


def _said(handle: CacheHandle) -> CacheHandle:
    for note in handle.notes:
        _LOG.warning("%s", note)
    return handle


def _width(blocks: nn.Module) -> int:
    """Return the channels of a token: what most linear layers of the blocks take."""
    layers = (m.in_features for m in blocks.modules() if isinstance(m, nn.Linear))
    return Counter(layers).most_common(1)[0][0]
