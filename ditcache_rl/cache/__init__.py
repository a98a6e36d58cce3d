"""Where residuals are kept: tiers under byte caps behind one store."""

from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.store import TieredCache
from ditcache_rl.cache.tier import DeviceTier

__all__ = ["CacheStats", "DeviceTier", "TieredCache"]
