"""Measure what a pipeline costs on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.bench.draw import Case, draw
from ditcache_rl.bench.run import read_kept
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import read_json, write_json
from ditcache_rl.schedules import CostModel, Schedule, fit_cost
from ditcache_rl.types import HISTORY, Floats, Mode, Modes

#: Rounds through all schedules, beside the one that warms up.
_REPEATS = 9


def measure_profile(
    pipe: Any,
    *,
    steps: int,
    sites: int,
    prompt: str,
    call: Mapping[str, Any],
    blocks: str | None = None,
    repeats: int | None = None,
    on_run: Callable[[float], None] | None = None,
) -> CostModel:
    """Fit the cost model to calls of the pipeline under a few very different schedules.

    Args:
        pipe: The pipeline; batch 1 is measured.
        steps: Denoising steps.
        sites: Parts of the block stack.
        prompt: What to draw.
        call: Further arguments of the call.
        blocks: Where the blocks are, as in `BlockRunner`.
        repeats: Rounds through all schedules; None for those of `profile_calls`. What counts is the
            median of the time over that of full compute in the same round, so that a machine whose
            speed drifts favours none.
        on_run: Called after every call with the share that is done, for a progress bar.
    """
    schedules = probe_schedules(steps, sites)
    repeats = _REPEATS if repeats is None else repeats
    seconds = np.empty((repeats, len(schedules)))
    for repeat in range(-1, repeats):  # round -1 warms up
        for place in range(len(schedules)):
            index = (place + repeat) % len(schedules)
            elapsed = timed_call(pipe, schedules[index], prompt=prompt, call=call, blocks=blocks)
            if repeat >= 0:
                seconds[repeat, index] = elapsed
            if on_run is not None:
                on_run((repeat + 1 + (place + 1) / len(schedules)) / (repeats + 1))
    full = seconds[:, :1]
    typical = np.median(full) * np.median(seconds / full, axis=0)
    return fit_cost(schedules, [float(s) for s in typical])


def keep_profile(
    config: EnvConfig,
    pipe: Any,
    file: Path,
    *,
    on_run: Callable[[float], None] | None = None,
) -> CostModel:
    """Measure what the first step count of an environment costs, or read what was measured.

    Args:
        config: The environment.
        pipe: Its pipeline.
        file: Where the profile is kept.
        on_run: As in `measure_profile`.

    Raises:
        ArtifactError: If what is there is no profile of these steps and sites.
    """
    steps, sites = config.steps[0], config.cache.sites

    def read(kept: Path) -> CostModel:
        cost = CostModel.from_dict(read_json(kept))
        if (cost.num_inference_steps, cost.sites) != (steps, sites):
            raise ArtifactError(f"{cost.num_inference_steps} steps and {cost.sites} sites")
        return cost

    if file.exists():
        return read_kept(file, read)
    cost = measure_profile(
        pipe,
        steps=steps,
        sites=sites,
        prompt=config.read_prompts("train")[0],
        call=config.pipeline.call,
        blocks=config.cache.blocks,
        on_run=on_run,
    )
    write_json(file, cost.to_dict())
    return cost


def profile_calls(steps: int, sites: int) -> list[Modes]:
    """List the schedules of all calls that a profile takes."""
    return probe_schedules(steps, sites) * (_REPEATS + 1)


def probe_schedules(steps: int, sites: int) -> list[Modes]:
    """List schedules from full compute, the first, to almost none, with reuse and forecasts."""
    # A shorter call tells the cost of a step from that of an image.
    counts = sorted({steps, max(1, steps // 4)}, reverse=True)
    schedules = [np.zeros((count, sites), dtype=np.int8) for count in counts]
    for period in (2, 4, steps):
        for mode in (Mode.REUSE, Mode.FORECAST2):  # the dearest forecast
            modes = np.full((steps, sites), mode, dtype=np.int8)
            modes[::period] = Mode.COMPUTE
            schedules.append(modes)
    return schedules


def timed_call(
    pipe: Any, modes: Modes, *, prompt: str, call: Mapping[str, Any], blocks: str | None = None
) -> float:
    """Return the seconds of one pipeline call under a schedule; full compute is the plain pipeline.

    What is promised is a share of what a user of the plain pipeline waits.
    """
    steps, sites = modes.shape
    controller = None
    if modes.any():
        fitted = _any_coefficients(modes) if sites == 1 else None
        controller = StaticSchedule(Schedule(modes, fitted))
    drawn = draw(
        pipe, [Case(prompt, 0)], controller, steps=steps, call=call, sites=sites, blocks=blocks
    )
    return drawn.seconds


def _any_coefficients(modes: Modes) -> Floats:
    """Weigh all that forecasts of one site know; fitted ones take a little longer than Newton's.

    Returns:
        (steps, HISTORY), nan where there is no forecast.
    """
    known = (modes == Mode.COMPUTE).cumsum()[:, None]
    coefficients = np.where(np.arange(HISTORY) < known, 0.5, 0.0)
    return np.where(modes >= Mode.FORECAST1, coefficients, np.nan)
