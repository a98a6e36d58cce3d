"""Where residuals are kept: device, host and disk under byte caps behind one store."""

from ditcache_rl.cache.caps import Caps, lower_caps
from ditcache_rl.cache.codec import CODECS, LOSSLESS, Codec, codec_pays, find_codec
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.cache.memory import Memory
from ditcache_rl.cache.placement import NEVER, Habit, Outlook, next_uses
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.store import TieredCache
from ditcache_rl.cache.tier import DeviceTier
from ditcache_rl.cache.worth import Verdict, compute_s_per_byte, try_tier

__all__ = [
    "CODECS",
    "LOSSLESS",
    "NEVER",
    "CacheStats",
    "Caps",
    "Codec",
    "DeviceTier",
    "Habit",
    "Memory",
    "Outlook",
    "SystemIO",
    "TieredCache",
    "Verdict",
    "codec_pays",
    "compute_s_per_byte",
    "find_codec",
    "lower_caps",
    "next_uses",
    "try_tier",
]
