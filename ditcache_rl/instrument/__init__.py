"""Run a pipeline's blocks under a controller: compute, reuse or forecast each site."""

from ditcache_rl.instrument.coarse import CoarseSteps
from ditcache_rl.instrument.log import RequestLog
from ditcache_rl.instrument.ranks import Ranks
from ditcache_rl.instrument.request import Request
from ditcache_rl.instrument.runner import BlockRunner, is_attached
from ditcache_rl.instrument.upscaler import Upscaler, bilinear, load_upscaler, save_upscaler

__all__ = [
    "BlockRunner",
    "CoarseSteps",
    "Ranks",
    "Request",
    "RequestLog",
    "Upscaler",
    "bilinear",
    "is_attached",
    "load_upscaler",
    "save_upscaler",
]
