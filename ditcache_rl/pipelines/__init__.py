"""Open, compress, copy and identify diffusers pipelines."""

from ditcache_rl.pipelines.identity import check_identity, model_identity, scheduler_identity
from ditcache_rl.pipelines.open import open_configured, open_pipeline
from ditcache_rl.pipelines.session import session

__all__ = [
    "check_identity",
    "model_identity",
    "open_configured",
    "open_pipeline",
    "scheduler_identity",
    "session",
]
