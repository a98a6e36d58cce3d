"""Fewer steps, of the pipeline's solver or of another one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.contender import Setup
from ditcache_rl.errors import ConfigError


def fewer_steps(setup: Setup, value: int) -> dict[str, Any]:
    """Take fewer steps of the pipeline's own solver."""
    if value >= setup.steps:
        raise ConfigError(f"expected fewer than {setup.steps} steps, received {value}")
    return {"num_inference_steps": value}


def other_solver(name: str, **options: Any) -> Callable[[Setup, Any], dict[str, Any]]:
    """Take fewer steps of another solver of diffusers over the same noise levels.

    Args:
        name: Its class.
        options: Of its config.
    """

    def make(setup: Setup, value: int) -> dict[str, Any]:
        kind: Any = getattr(importlib.import_module("diffusers"), name)
        config = dict(setup.pipe.scheduler.config)
        if "Flow" in type(setup.pipe.scheduler).__name__ and "Flow" not in name:
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
            config |= flow | {"flow_shift": config.get("shift", 1.0)}
        config |= options

        class Solver(kind):  # type: ignore[misc]
            """Takes what pipelines pass to the Euler solver, and keeps to its own levels."""

            def set_timesteps(
                self,
                num_inference_steps: int | None = None,
                device: Any = None,
                sigmas: Any = None,
                mu: float | None = None,
            ) -> None:
                count = len(sigmas) if num_inference_steps is None else num_inference_steps
                super().set_timesteps(count, device=device)

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            plain = pipe.scheduler
            pipe.scheduler = Solver.from_config(config)
            try:
                yield
            finally:
                pipe.scheduler = plain

        return {"applied": applied, "num_inference_steps": value}

    return make
