"""Run a pipeline's blocks under a controller: compute, reuse or forecast each site."""

from ditcache_rl.instrument.request import Request, RequestLog
from ditcache_rl.instrument.runner import BlockRunner

__all__ = ["BlockRunner", "Request", "RequestLog"]
