"""Where residuals are kept: device, host and disk under byte caps behind one store."""

from ditcache_rl.cache.caps import Caps, resolve_caps
from ditcache_rl.cache.codec import CODECS, LOSSLESS, Codec, find_codec
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.cache.placement import NEVER, Outlook, graded_tiers, next_uses
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.store import TieredCache
from ditcache_rl.cache.tier import DeviceTier

__all__ = [
    "CODECS",
    "LOSSLESS",
    "NEVER",
    "CacheStats",
    "Caps",
    "Codec",
    "DeviceTier",
    "Outlook",
    "SystemIO",
    "TieredCache",
    "find_codec",
    "graded_tiers",
    "next_uses",
    "resolve_caps",
]
