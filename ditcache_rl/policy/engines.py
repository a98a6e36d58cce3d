"""Schedules as the caches of other engines take them: which steps compute, and no more.

What an engine puts in the place of the others is its own way. Each function says in lines what that
changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing, write_json
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.types import Floats, Mode

#: MagCache computes where its ratios say that a residual has changed by more than its threshold:
#: by nothing where a step is left out, by all of it where one computes.
_THRESHOLD, _SAME, _OTHER = 0.06, 1.0, 2.0
#: What a request of SGLang is where nothing else is said, and what has to be said.
_REQUEST: dict[str, Any] = {
    "do_classifier_free_guidance": False,
    "quality": "lossless",
    "attention_backend": None,
    "dtype": "bfloat16",
}
REQUESTED = ("pipeline", "checkpoint", "height", "width", "guidance_scale")
#: Nobody has counted the calls of a step.
_UNCOUNTED: Set[int] = frozenset()
#: Steps that DPCache computes whatever a schedule says: it extrapolates from two.
ALWAYS = (0, 1)


def export_cache_dit(schedule: Schedule, file: Path, *, calls: Set[int] = _UNCOUNTED) -> list[str]:
    """Write the computed steps of a schedule as a config of cache-dit, for `load_configs`.

    Args:
        schedule: Of one site.
        file: Replaced if it is there.
        calls: How often the denoiser is called in a step, several numbers where steps differ;
            without any, cache-dit goes by the pipeline's name.

    Returns:
        What cache-dit does otherwise, in lines.

    Raises:
        ConfigError: If there are several sites: cache-dit decides by step. If the denoiser is not
            called once at every step, or twice at every one.
    """
    path = _path_of(schedule, "cache-dit")
    if calls not in (_UNCOUNTED, {1}, {2}):
        raise ConfigError(
            "expected one call of the denoiser at every step, or two, as cache-dit counts steps by "
            f"them, received {' or '.join(map(str, sorted(calls)))}; use another engine, or other "
            "guidance"
        )
    forecasts = bool((schedule.modes > Mode.REUSE).any())
    computed = [int(step in path) for step in range(schedule.steps)]
    lines = [
        "cache_config:",
        "  max_warmup_steps: 0",
        "  max_cached_steps: -1",
        "  max_continuous_cached_steps: -1",
        "  Fn_compute_blocks: 1",
        "  Bn_compute_blocks: 0",
        f"  num_inference_steps: {schedule.steps}",
        f"  steps_computation_mask: {computed}",
        "  steps_computation_policy: static",
        f"  enable_taylorseer: {str(forecasts).lower()}",
        *(["  taylorseer_order: 1"] if forecasts else []),
        *([f"  enable_separate_cfg: {str(calls == {2}).lower()}"] if calls else []),
    ]
    with replacing(file) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    notes = [
        "the first block, and what stands around the blocks, is computed at every step",
        f"it counts on {'two calls' if calls == {2} else 'one call'} of the denoiser in a step"
        if calls
        else "calls are steps, unless enable_separate_cfg says that guidance takes two",
    ]
    if forecasts:
        kind = "noise levels" if schedule.coefficients is None else "fitted coefficients"
        notes.append(f"forecasts are TaylorSeer's of order 1, which know no {kind}")
    return notes


def export_mag_cache(schedule: Schedule, file: Path) -> list[str]:
    """Write the computed steps of a schedule as a config of diffusers' MagCache, in JSON.

    Its members are the arguments of `MagCacheConfig`.

    Args:
        schedule: Of one site.
        file: Replaced if it is there.

    Returns:
        What MagCache does otherwise, in lines.

    Raises:
        ConfigError: If there are several sites: MagCache decides by step.

    Source: the rule of `diffusers.hooks.mag_cache`, after MagCache (arXiv 2506.09045).
    """
    path = _path_of(schedule, "MagCache")
    gaps = [stop - start for start, stop in zip(path, (*path[1:], schedule.steps), strict=True)]
    config = {
        "threshold": _THRESHOLD,
        "max_skip_steps": max(gaps) - 1,
        "retention_ratio": 0.0,
        "num_inference_steps": schedule.steps,
        "mag_ratios": [_OTHER if step in path else _SAME for step in range(schedule.steps)],
    }
    write_json(file, config)
    notes = [
        "what stands around the blocks is computed at every step",
        "a run that is broken off leaves the next one out of step, until the cache is reset",
    ]
    if bool((schedule.modes > Mode.REUSE).any()):
        notes.append("steps that are left out add what the blocks added last: nothing is forecast")
    return notes


def export_dpcache(
    schedule: Schedule, sigmas: Floats, file: Path, *, scheduler: Any, request: Mapping[str, Any]
) -> list[str]:
    """Write the computed steps of a schedule for the DPCache of SGLang, in its JSON.

    Args:
        schedule: Of one site.
        sigmas: (T + 1,) noise levels.
        file: Replaced if it is there.
        scheduler: Of the pipeline: SGLang compares a digest of its config.
        request: What requests must match, by SGLang's names; `REQUESTED` at least.

    Returns:
        What DPCache does otherwise, in lines.

    Raises:
        ConfigError: If there are several sites or fewer steps than DPCache always computes, or
            something is missing in the request.

    Source: `runtime/cache/dpcache.py` of SGLang's multimodal generation, schema 2, after DPCache
        (arXiv 2602.22654).
    """
    own = _path_of(schedule, "DPCache")
    check_steps(schedule.steps, ALWAYS)
    missing = [name for name in REQUESTED if name not in request]
    if missing:
        raise ConfigError(
            f"expected {', '.join(REQUESTED)} of the requests that the schedule is for, received "
            f"no {', '.join(missing)}; they must be those of the server"
        )
    config = dict(scheduler.config)
    scale = float(config.get("num_train_timesteps", 1000))
    path = sorted({*own, *ALWAYS})
    known = {
        "num_inference_steps": schedule.steps,
        "scheduler": type(scheduler).__name__,
        "scheduler_config_sha256": _digest(config),
        "timesteps": _as_float32(sigmas[:-1] * scale),
        "sigmas": _as_float32(sigmas),
    }
    artifact = {
        "schema": "sglang-dpcache-schedule-v2",
        "schedule_method": "ditcache-rl",
        "predictor": {
            "name": "final-feature-linear-extrapolation",
            "order": 1,
            "arithmetic": "feature-dtype-elementwise-v1",
        },
        "objective": "pact-mean-abs-final-feature-predicted-steps-only-v1",
        "source_commit": "ditcache-rl",
        "request": {**_REQUEST, **known, **request},
        "mandatory_full_steps": list(ALWAYS),
        "force_last_full": False,
        "max_gap": None,
        "num_full_steps": len(path),
        "full_steps": path,
        "calibrated_cost": 0.0,
        "calibration": {"manifest_sha256": _digest({"modes": schedule.text}), "num_samples": 0},
    }
    write_json(file, artifact)
    notes = [
        "what stands behind the blocks is computed at every step",
        "forecasts are lines by step through what the last block returned, in bfloat16",
    ]
    if len(path) > len(own):
        notes.append(f"step 1 is computed too: {len(path)} steps in place of {len(own)}")
    return notes


def check_steps(steps: int, always: Sequence[int]) -> None:
    """Refuse runs that end before an engine has computed what it always computes.

    Args:
        steps: Of a run.
        always: Steps that the engine computes whatever it is told.

    Raises:
        ConfigError: If there are fewer.
    """
    if steps <= max(always):
        raise ConfigError(
            f"expected a run of at least {max(always) + 1} steps, as the engine computes "
            f"{', '.join(map(str, always))} whatever it is told, received {steps}; such a run "
            "leaves nothing to cache: use no engine"
        )


def _path_of(schedule: Schedule, engine: str) -> ComputePath:
    if schedule.sites != 1:
        raise ConfigError(
            f"expected a schedule of one site, as {engine} decides by step, received "
            f"{schedule.sites} sites"
        )
    return schedule.path


def _digest(config: Mapping[str, Any]) -> str:
    text = json.dumps(dict(config), sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_float32(numbers: Floats) -> list[float]:
    """Round as SGLang does before it compares."""
    found: list[float] = torch.as_tensor(numbers).float().tolist()
    return found
