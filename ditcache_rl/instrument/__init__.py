"""Run a pipeline's blocks under a controller: compute, reuse or forecast each site."""

from ditcache_rl.instrument.attachment import is_attached, own_scope
from ditcache_rl.instrument.log import RequestLog
from ditcache_rl.instrument.ranks import Ranks
from ditcache_rl.instrument.request import Request
from ditcache_rl.instrument.runner import BlockRunner

__all__ = [
    "BlockRunner",
    "Ranks",
    "Request",
    "RequestLog",
    "is_attached",
    "own_scope",
]
