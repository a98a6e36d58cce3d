"""The caches of cache-dit, which patches classes: a process of its own runs them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.contender import Setup


def db_cache(calibrator: str = "", mask: bool = False) -> Callable[[Setup, Any], dict[str, Any]]:
    """Enable cache-dit; the knob is "warm-up steps, threshold", or a step mask."""

    def make(setup: Setup, value: str) -> dict[str, Any]:
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # it tells of every block otherwise
        cache_dit: Any = importlib.import_module("cache_dit")
        given: dict[str, Any] = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0}
        if mask:
            given |= {
                "residual_diff_threshold": 1.0,
                "max_warmup_steps": 1,
                "steps_computation_mask": _steps_mask(cache_dit, setup.steps, value),
                "steps_computation_policy": "static",
            }
        else:
            warm_up, threshold = value.split(", ")
            given |= {
                "max_warmup_steps": int(warm_up),
                "residual_diff_threshold": float(threshold),
            }
        config = cache_dit.DBCacheConfig(**given)
        second = getattr(cache_dit, f"{calibrator}CalibratorConfig")() if calibrator else None

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=second)
            try:
                yield
            finally:
                cache_dit.disable_cache(pipe)

        return {"applied": applied}

    return make


def _steps_mask(cache_dit: Any, steps: int, value: str) -> list[int]:
    """A preset by name, or "every k": as many steps as a preset begins with, then every k-th."""
    if not value.startswith("every"):
        mask: list[int] = cache_dit.steps_mask(total_steps=steps, mask_policy=value)
        return mask
    k = int(value.split()[1])
    return [int(step < 3 or step % k == 0 or step == steps - 1) for step in range(steps)]
