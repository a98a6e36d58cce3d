"""Open, compress, copy and identify diffusers pipelines."""

from ditcache_rl.pipelines.copies import apart, twin
from ditcache_rl.pipelines.identity import (
    check_identity,
    model_identity,
    open_matching,
    pipeline_identity,
    scheduler_identity,
)
from ditcache_rl.pipelines.open import (
    open_configured,
    open_pipeline,
    open_scheduler,
    open_shared,
)

__all__ = [
    "apart",
    "check_identity",
    "model_identity",
    "open_configured",
    "open_matching",
    "open_pipeline",
    "open_scheduler",
    "open_shared",
    "pipeline_identity",
    "scheduler_identity",
    "twin",
]
