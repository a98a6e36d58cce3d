"""What `frontier.py` lets compete: a table of facts, one line per contender.

A contender is a way to run a pipeline faster with one knob, swept over its useful range. Peers come
from their own packages, rules without one are our controllers of them.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers.hooks import MagCacheConfig
from torch import nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.config import find_policy
from ditcache_rl.control import EasyCache, EveryK, FBCache, StaticSchedule, TeaCache
from ditcache_rl.control.published import AdaCache, DiCache
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import Family, Method
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import check_identity
from ditcache_rl.pipelines.compress import quantize_weights
from ditcache_rl.policy import load_policy
from ditcache_rl.policy.schedule_file import read_modes
from ditcache_rl.types import HISTORY, Mode

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Setup:
    """What contenders are made for.

    Attributes:
        pipe: The pipeline.
        steps: Denoising steps of the reference.
        calibrate: Draws one image; what must be calibrated first is, meanwhile.
        schedules: By contender and knob value, `modes` as `modes_text` writes them, and `weights`
            of fitted forecasts by step, an empty list where there are none.
        order: Blocks, those first that are best left out.
    """

    pipe: Any
    steps: int
    calibrate: Callable[[], object]
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    order: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run a pipeline faster, at all settings of its knob.

    Attributes:
        name: Shown.
        family: As `evaluate.FAMILIES`; `static` and `learned` are ours.
        knob: What is swept.
        values: From careful to greedy.
        make: Builds the method at one value; whatever it raises becomes a row with that error.
        process: Contenders of another name than "main" run in a process of their own.
    """

    name: str
    family: Family
    knob: str
    values: tuple[Value, ...]
    make: Callable[[Setup, Any], dict[str, Any]]
    process: str = "main"

    def method(self, setup: Setup, value: Value) -> Method:
        """Build the method at one value of the knob."""
        target = f"{self.knob} {value}"
        return Method(self.name, self.family, target, **self.make(setup, value))


def _hook(config: str, **fixed: Any) -> Callable[[Setup, Any], dict[str, Any]]:
    """Enable one of diffusers' caches; the knob gives the fields that are not fixed."""

    def make(setup: Setup, value: Any) -> dict[str, Any]:
        given = {
            name: entry(setup, value) if callable(entry) else entry for name, entry in fixed.items()
        }
        settings = getattr(importlib.import_module("diffusers.hooks"), config)(**given)

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            denoiser: Any = denoiser_of(pipe)
            denoiser.enable_cache(settings)
            try:
                yield
            finally:
                denoiser.disable_cache()

        return {"applied": applied}

    return make


def _value(setup: Setup, value: Any) -> Any:
    return value


def _timestep(setup: Setup, value: Any) -> Callable[[], Any]:
    return lambda: setup.pipe._current_timestep


def _mag_ratios(setup: Setup, value: Any) -> torch.Tensor:
    """Calibrate MagCache on one image, whose ratios it prints."""
    config = MagCacheConfig(calibrate=True, num_inference_steps=setup.steps)
    denoiser: Any = denoiser_of(setup.pipe)
    denoiser.enable_cache(config)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            setup.calibrate()
    finally:
        denoiser.disable_cache()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
    if not lines:
        raise ConfigError("expected MagCache to print its ratios, received none")
    return torch.tensor(json.loads(lines[0]))


def _sea_cache(setup: Setup, value: float) -> dict[str, Any]:
    """Enable SeaCache, and tell it what only two pipelines of diffusers tell: step and latents."""
    from diffusers.hooks import SeaCacheConfig

    def latents(module: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
        return [_as_video(row) for row in kwargs.get("hidden_states", args[0] if args else ())]

    settings = SeaCacheConfig(
        threshold=value, max_consecutive_cached=6, raw_vision_callback=latents
    )

    @contextmanager
    def applied(pipe: Any) -> Iterator[None]:
        denoiser: Any = denoiser_of(pipe)
        plain = denoiser.cache_context

        def cache_context(name: str) -> Any:
            scheduler = pipe.scheduler
            step = scheduler.step_index or 0
            return plain(
                name,
                step_index=step,
                sigma=float(scheduler.sigmas[step]),
                num_inference_steps=len(scheduler.timesteps),
            )

        denoiser.enable_cache(settings)
        denoiser.cache_context = cache_context
        try:
            yield
        finally:
            del denoiser.cache_context
            denoiser.disable_cache()

    return {"applied": applied}


def _as_video(row: torch.Tensor) -> torch.Tensor:
    """Lay the latents of a sample out as (channels, frames, height, width)."""
    if row.ndim > 2:
        return row if row.ndim == 4 else row[:, None]
    side = round(row.shape[0] ** 0.5)
    # FLUX packs squares of 2 x 2 into the channels of a token.
    squares = row.reshape(side, side, -1, 2, 2).permute(2, 0, 3, 1, 4)
    return squares.reshape(-1, 1, 2 * side, 2 * side)


def _cache_dit(calibrator: str = "", mask: bool = False) -> Callable[[Setup, Any], dict[str, Any]]:
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


def _fewer(setup: Setup, value: int) -> dict[str, Any]:
    if value >= setup.steps:
        raise ConfigError(f"expected fewer than {setup.steps} steps, received {value}")
    return {"num_inference_steps": value}


def _solver(name: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Take fewer steps of another solver of diffusers over the same noise levels."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        kind: Any = getattr(importlib.import_module("diffusers"), name)
        config = dict(setup.pipe.scheduler.config)
        if "Flow" in type(setup.pipe.scheduler).__name__ and "Flow" not in name:
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
            config |= flow | {"flow_shift": config.get("shift", 1.0)}

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


def _rule(kind: Callable[..., Any], **fixed: Any) -> Callable[[Setup, Any], dict[str, Any]]:
    return lambda setup, value: {"controller": kind(value, **fixed)}


def _schedule(name: str, blocks: str = "") -> Callable[[Setup, Any], dict[str, Any]]:
    """Follow a schedule that was searched, chosen by its computed steps."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        found = setup.schedules.get(name, {}).get(str(value))
        if found is None:
            raise ConfigError(f"expected a schedule of {value} computed steps for {name}")
        where = {"blocks": blocks} if blocks else {}
        weights = [row or [np.nan] * HISTORY for row in found["weights"]]
        fitted = np.array(weights) if weights else None
        return {"controller": StaticSchedule.of(read_modes(found["modes"]), fitted), **where}

    return make


def _whole_denoiser(name: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """The same with the whole denoiser as the site."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        return _schedule(name, denoiser_name(setup.pipe))(setup, value)

    return make


def _whole_every_k(setup: Setup, value: int) -> dict[str, Any]:
    """Forecast along a parabola between computed outputs of the whole denoiser."""
    return {"controller": EveryK(value, order=2), "blocks": denoiser_name(setup.pipe)}


def denoiser_name(pipe: Any) -> str:
    """Return the component name of the first denoiser."""
    from ditcache_rl.instrument.blocks import denoisers_of

    return next(iter(denoisers_of(pipe)))


def _layer_mask(setup: Setup, value: int) -> dict[str, Any]:
    """Leave the first so many blocks of the order out at every second step."""
    blocks = len(find_blocks(denoiser_of(setup.pipe)))
    if not 1 <= value <= len(setup.order):
        raise ConfigError(f"expected 1 to {len(setup.order)} blocks to leave out, received {value}")
    modes = np.zeros((setup.steps, blocks), dtype=np.int8)
    modes[1::2, list(setup.order[:value])] = Mode.REUSE
    return {"controller": StaticSchedule.of(modes), "sites": blocks}


def _policy(target: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Follow the shipped policy under one kind of target."""

    def make(setup: Setup, value: float) -> dict[str, Any]:
        policy = load_policy(find_policy("shapes-ppo"))
        check_identity(policy.manifest.model, policy.manifest.scheduler, setup.pipe)
        controller = PolicyController(policy, Target(**{target: value}))
        made_for = policy.manifest
        return {
            "controller": controller,
            "sites": made_for.sites,
            "blocks": made_for.blocks,
        }

    return make


def _fewer_every_k(setup: Setup, value: str) -> dict[str, Any]:
    """Take fewer steps, and compute only every k-th of them."""
    steps, k = map(int, value.split(", "))
    return _whole_every_k(setup, k) | {"num_inference_steps": steps}


def _converted(kind: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Run plainly, or follow a searched schedule, on converted copies of the pipeline's models."""

    def make(setup: Setup, value: str | int) -> dict[str, Any]:
        under = {} if value == PLAIN else _whole_denoiser("whole denoiser")(setup, value)

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            copies = _copies(pipe, kind)
            plain = {name: pipe.components[name] for name in copies}
            pipe.register_modules(**copies)
            try:
                if under:
                    controller, blocks = under["controller"], under["blocks"]
                    with BlockRunner(pipe, controller, TieredCache(), blocks=blocks):
                        yield
                else:
                    yield
            finally:
                pipe.register_modules(**plain)

        return {"applied": applied}

    return make


@cache
def _copies(pipe: Any, kind: str) -> dict[str, nn.Module]:
    """Convert copies of a pipeline's models: `compile`, `bf16`, or a kind of quantized weights."""
    models = {n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)}
    name = denoiser_name(pipe)
    copies: dict[str, Any] = copy.deepcopy(models if kind == "bf16" else {name: models[name]})
    for module in (module for part in copies.values() for module in part.modules()):
        module.__dict__.pop("forward", None)  # what counts the work of the original
    if kind == "bf16":
        return {name: part.to(torch.bfloat16) for name, part in copies.items()}
    if kind == "compile":
        copies[name].compile_repeated_blocks()
    else:
        quantize_weights(copies[name], kind)
    return copies


_THRESHOLDS = ("8, 0.08", "4, 0.08", "4, 0.15", "4, 0.24", "3, 0.4", "2, 0.8")
_MASKS = ("slow", "medium", "fast", "ultra", "every 8", "every 13")
_COMPUTES = (12, 9, 7, 6, 5, 4)

#: Budgets of what is searched, and the first steps that DPCache always computes.
PUBLISHED_COMPUTES = _COMPUTES
#: A converted pipeline without a cache, and budgets of schedules on it.
PLAIN = "all"
_CONVERTED: tuple[Value, ...] = (PLAIN, 9, 7, 5, 4, 3)
OWN_COMPUTES = (10, 8, 7, 6, 5, 4, 3, 2)

CONTENDERS: tuple[Contender, ...] = (
    Contender("fewer steps", "fewer-steps", "steps", (14, 11, 9, 7, 6, 5, 4, 3), _fewer),
    Contender(
        "DPM-Solver++ 2M",
        "fewer-steps",
        "steps",
        (14, 10, 8, 6, 5, 4),
        _solver("DPMSolverMultistepScheduler"),
    ),
    Contender(
        "Heun",
        "fewer-steps",
        "steps",
        (7, 6, 5, 4, 3, 2),
        _solver("FlowMatchHeunDiscreteScheduler"),
    ),
    Contender(
        "FirstBlockCache",
        "peer",
        "threshold",
        (0.06, 0.1, 0.16, 0.25, 0.4, 0.8),
        _hook("FirstBlockCacheConfig", threshold=_value),
    ),
    Contender(
        "TaylorSeer",
        "peer",
        "interval",
        (2, 3, 4, 5, 7, 12),
        _hook("TaylorSeerCacheConfig", cache_interval=_value, taylor_factors_dtype=torch.float32),
    ),
    Contender(
        "TaylorSeer lite",
        "peer",
        "interval",
        (2, 3, 4, 6, 8, 12, 24),
        _hook(
            "TaylorSeerCacheConfig",
            cache_interval=_value,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        ),
    ),
    Contender(
        "MagCache",
        "peer",
        "threshold",
        (0.03, 0.06, 0.12, 0.24, 0.5, 1.0),
        _hook(
            "MagCacheConfig",
            threshold=_value,
            max_skip_steps=lambda _, value: 3 if value < 0.1 else 6,
            retention_ratio=0.1,
            num_inference_steps=lambda setup, _: setup.steps,
            mag_ratios=_mag_ratios,
        ),
    ),
    Contender("SeaCache", "peer", "threshold", (0.1, 0.2, 0.3, 0.5, 0.8, 1.6), _sea_cache),
    Contender(
        "PAB",
        "peer",
        "range",
        (2, 3, 4, 6, 9, 14),
        _hook(
            "PyramidAttentionBroadcastConfig",
            spatial_attention_block_skip_range=_value,
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=_timestep,
        ),
    ),
    Contender(
        "FasterCache",
        "peer",
        "range",
        (2, 3, 4, 6, 9, 14),
        _hook(
            "FasterCacheConfig",
            spatial_attention_block_skip_range=_value,
            spatial_attention_timestep_skip_range=(-1, 941),
            is_guidance_distilled=True,
            tensor_format="BCHW",
            current_timestep_callback=_timestep,
        ),
    ),
    *(
        Contender(name, "peer", "warm-up, threshold", _THRESHOLDS, _cache_dit(kind), "cache-dit")
        for name, kind in {
            "DBCache": "",
            "DBCache + TaylorSeer": "TaylorSeer",
            "DBCache + DMD": "DMD",
            "DBCache + FoCa": "FoCa",
        }.items()
    ),
    *(
        Contender(name, "peer", "mask", _MASKS, _cache_dit(kind, mask=True), "cache-dit")
        for name, kind in {
            "step mask": "",
            "step mask + TaylorSeer": "TaylorSeer",
        }.items()
    ),
    Contender(
        "TeaCache", "heuristic", "threshold", (0.2, 0.4, 0.6, 0.9, 1.2, 2.0), _rule(TeaCache)
    ),
    Contender(
        "EasyCache", "heuristic", "threshold", (0.05, 0.08, 0.12, 0.2, 0.4, 0.8), _rule(EasyCache)
    ),
    Contender("DiCache", "heuristic", "threshold", (0.1, 0.2, 0.3, 0.45, 0.7, 1.2), _rule(DiCache)),
    Contender("AdaCache", "heuristic", "pace", (0.5, 1.0, 1.5, 2.5, 4.0, 7.0), _rule(AdaCache)),
    Contender("FORA", "heuristic", "k", (2, 3, 4, 5, 7, 9), _rule(EveryK)),
    Contender("Newton every k", "static", "k", (2, 3, 4, 5, 7, 9), _rule(EveryK, order=1)),
    Contender("Newton every k, whole denoiser", "static", "k", (2, 3, 4, 5, 7, 9), _whole_every_k),
    Contender("L2C-like", "heuristic", "blocks", (2, 4, 5, 6, 8, 9), _layer_mask),
    Contender("DPCache", "heuristic", "computed", _COMPUTES, _schedule("DPCache")),
    Contender("LeMiCa", "heuristic", "computed", _COMPUTES, _schedule("LeMiCa")),
    Contender("BudCache", "heuristic", "computed", _COMPUTES, _schedule("BudCache")),
    Contender("MeanCache-like", "heuristic", "computed", _COMPUTES, _schedule("MeanCache-like")),
    Contender(
        "policy shapes-ppo",
        "static",
        "budget",
        (0.36, 0.33, 0.25, 0.22, 0.18, 0.15, 0.11),
        _policy("budget"),
    ),
    Contender(
        "policy shapes-ppo, floor",
        "static",
        "min_psnr",
        (50.0, 45.0, 40.0, 35.0, 30.0, 25.0),
        _policy("min_psnr"),
    ),
    Contender(
        "whole denoiser", "static", "computed", OWN_COMPUTES, _whole_denoiser("whole denoiser")
    ),
    Contender(
        "fewer steps, Newton every k",
        "static",
        "steps, k",
        ("20, 2", "20, 3", "20, 4", "14, 2", "14, 3", "14, 4", "10, 2", "10, 3"),
        _fewer_every_k,
    ),
    *(
        Contender(f"whole denoiser, {kind}", "static", "computed", _CONVERTED, _converted(kind))
        for kind in ("compile", "int8-dynamic", "bf16")
    ),
)

#: The FBCache of ours is compared with that of diffusers in a test, so only one of them runs here.
CHECKED_TWINS = {"FirstBlockCache": FBCache}
