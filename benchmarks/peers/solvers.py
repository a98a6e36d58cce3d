"""Fewer steps, of the pipeline's solver or of another one."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.contender import Setup
from ditcache_rl.errors import ConfigError

#: Steps that they are tried at.
SOLVER_STEPS = (14, 10, 8, 6, 5, 4, 3, 2)
_SHARED = {"lower_order_final": (True, False), "stretch": (1.0, 0.5, 0.75, 1.5, 2.0, 3.0)}
#: Solvers by contender: class, options that make it what it is, and those that are searched, the
#: package's own value first. Noise levels of Karras and others are made from those of noise
#: prediction, which models of flow matching don't have.
SOLVERS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "DPM-Solver++ 2M": (
        "DPMSolverMultistepScheduler",
        {},
        {**_SHARED, "solver_type": ("midpoint", "heun"), "euler_at_final": (False, True)},
    ),
    "DPM-Solver++ 3M": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        {**_SHARED, "solver_type": ("midpoint", "heun"), "euler_at_final": (False, True)},
    ),
    "UniPC": (
        "UniPCMultistepScheduler",
        {},
        {
            **_SHARED,
            "solver_order": (2, 3, 1),
            "solver_type": ("bh2", "bh1"),
            "predict_x0": (True, False),
            "disable_corrector": ([], [0], list(range(28))),
        },
    ),
}


def fewer_steps(setup: Setup, value: int) -> dict[str, Any]:
    """Take fewer steps of the pipeline's own solver."""
    if value >= setup.steps:
        raise ConfigError(f"expected fewer than {setup.steps} steps, received {value}")
    return {"num_inference_steps": value}


def tuned_solver(name: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Take fewer steps of one of `SOLVERS`, with the options that were searched for so many."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        kind, fixed, _ = SOLVERS[name]
        searched = setup.settings.get(name, {}).get(str(value), {})
        return other_solver(kind, **fixed, **searched)(setup, value)

    return make


def other_solver(
    name: str, *, stretch: float = 1.0, **options: Any
) -> Callable[[Setup, Any], dict[str, Any]]:
    """Take fewer steps of another solver of diffusers over the same noise levels.

    Where the pipeline's own solver shifts them by the size of the image, so does the other one.

    Args:
        name: Its class.
        stretch: What the shift of the noise levels is multiplied with.
        options: Of its config.
    """

    def make(setup: Setup, value: int) -> dict[str, Any]:
        kind: Any = getattr(importlib.import_module("diffusers"), name)
        config = dict(setup.pipe.scheduler.config)
        dynamic = bool(config.get("use_dynamic_shifting"))
        way = config.get("time_shift_type", "exponential")
        if dynamic and way != "exponential":
            raise ConfigError(f"expected exponential time shifts, received {way} ones")
        flow = "Flow" in name
        if "Flow" in type(setup.pipe.scheduler).__name__ and not flow:
            config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
            config |= {"flow_shift": config.get("shift", 1.0) * stretch}
        elif dynamic:
            config |= {"shift": 1.0}  # its levels begin unshifted, as those of the pipeline's own
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
                shift: dict[str, Any] = {}
                if dynamic and mu is not None:
                    if flow:  # it has no shift but a fixed one, of the same form
                        self.register_to_config(shift=math.exp(mu) * stretch)
                    else:
                        shift = {"mu": mu + math.log(stretch)}
                super().set_timesteps(count, device=device, **shift)

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
