"""Turn a pipeline's own call inside out: the caller decides, step by step."""

from ditcache_rl.rollout.worker import Finished, Rollout

__all__ = ["Finished", "Rollout"]
