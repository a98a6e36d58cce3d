"""The stages of a training run; each leaves a file and is skipped where that is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.bench import Board, Case, budgets_of, measure_profile
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.files import read_json, replacing, write_json
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.rl.episodes import Setting
from ditcache_rl.schedules import CostModel
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search import (
    Calibration,
    ClimbSettings,
    Rollouts,
    Sample,
    planned_rows,
    proposals,
    rescale_plan,
    sample_cases,
    search_fitted_plan,
    search_plan,
    spaced_plan,
)
from ditcache_rl.types import Floats

Tick = Callable[[float, str], None]
"""Hears the share of a stage that is done, and a word about it."""

#: Cases of searches that begin near what they look for.
_FEW = 8


def profile_stage(
    config: EnvConfig, pipe: Any, prompt: str, *, steps: int, file: Path, tick: Tick
) -> CostModel:
    """Measure what schedules cost on this machine."""
    if file.exists():
        return CostModel.from_dict(read_json(file))
    cost = measure_profile(
        pipe,
        steps=steps,
        sites=config.cache.sites,
        prompt=prompt,
        call=config.pipeline.call,
        blocks=config.cache.blocks,
        on_run=lambda share: tick(share, f"{steps} steps"),
    )
    write_json(file, cost.to_dict())
    return cost


def sample_stage(board: Board, cases: Sequence[Case], count: int, *, file: Path) -> Sample:
    """Choose typical and hard cases for the searches."""
    if file.exists():
        parts = json.loads(file.read_text())
        return Sample(*([Case(prompt, seed) for prompt, seed in part] for part in parts))
    sample = sample_cases(board, cases, count)
    write_json(file, sample)
    return sample


def search_stage(
    config: EnvConfig, board: Board, sample: Sample, *, file: Path, seed: int, tick: Tick
) -> Plan:
    """Search a static schedule for every count of whole steps up to the largest named budget.

    From there to `most_share` the schedule below has one more computed; above, up to half of the
    steps and at some budgets beyond, steps are spaced evenly unless that is better.
    """
    if file.exists():
        return _read_plan(file)
    site_steps = board.steps * board.sites
    whole = [count * board.sites for count in range(2, board.steps + 1)]
    named = budgets_of(config, site_steps)
    below = sorted({*named, *(b for b in whole if b <= named[-1])})
    beyond = [b for b in whole if named[-1] < b <= config.search.most_share * site_steps]
    # Thinned out from the top: full compute must be there.
    thinned = {*whole[:: -max(1, board.steps // 7)], *(b for b in whole if b <= site_steps // 2)}
    above = sorted(budget for budget in thinned if budget > max(below + beyond))
    evaluations = config.search.evaluations
    work = {b: b * (evaluations + 7) for b in below} | {b: b for b in beyond + above}
    spent = 0

    def done(budget: int, psnr: float) -> None:
        nonlocal spent
        spent += work[budget]
        tick(spent / sum(work.values()), f"{budget}/{site_steps} computed: {psnr:.1f} dB")

    rng = np.random.default_rng(seed)
    low = _search_on(config, board, sample.mixed, sample.typical)(
        budgets=below,
        evaluations=evaluations,
        rng=rng,
        on_budget=done,
        propose=partial(proposals, Calibration(board, sample.mixed)),
    )
    grow = _search_on(config, board, sample.mixed[:_FEW], sample.typical)
    plan, even = low, spaced_plan(board.steps, board.sites)
    # Latents would take what grew from below further up too, where images tell that it is worse.
    for budgets, before in ((beyond, low.patterns[named[-1]]), (above, None)):
        found = grow(
            budgets=budgets,
            evaluations=0,
            together=False,
            rng=rng,
            on_budget=done,
            start=even,
            before=before,
        )
        plan = _joined(plan, found)
    _write_plan(file, plan)
    return plan


def rescale_stage(
    config: EnvConfig,
    plan: Plan,
    sigmas: Mapping[int, Floats],
    board: Board,
    sample: Sample,
    *,
    file: Path,
    seed: int,
    tick: Tick,
) -> Plan:
    """Carry the plan over to another step count, and climb a little at named budgets.

    On few cases: what is carried over, or planned from full compute, is good already. Weights need
    more of them. Where more steps compute than the largest named budget has at the first step
    count, there is no climb, gaps are fitted one by one, and so are those of the schedules between
    that are carried over without a fit.
    """
    if file.exists():
        return _read_plan(file)
    sites, first = board.sites, config.steps[0]
    site_steps, most = board.steps * sites, budgets_of(config, first * sites)[-1]
    budgets = [budget for budget in budgets_of(config, site_steps) if budget >= plan.least]
    carried = rescale_plan(plan, sigmas[first], sigmas[board.steps], sites=sites, budgets=budgets)
    fitted = np.isfinite(carried.weights).any(axis=(1, 2))
    if fitted.any():
        bare = np.flatnonzero((carried.patterns[:, 0] >= 0) & ~fitted).tolist()
        budgets = sorted({*budgets, *(b for b in bare if most < b < max(budgets, default=0))})
    few, rng = sample.mixed[:_FEW], np.random.default_rng(seed)
    search = _search_on(config, board, few, sample.typical[:_FEW], settled=sample.mixed)
    propose = partial(planned_rows, Calibration(board, few))

    def done(budget: int, psnr: float) -> None:
        share = (budgets.index(budget) + 1) / len(budgets)
        tick(share, f"{budget}/{site_steps} computed: {psnr:.1f} dB")

    joined = carried
    for part, evaluations in (
        ([b for b in budgets if b <= most], config.search.evaluations // 4),
        ([b for b in budgets if b > most], 0),
    ):
        found = search(
            budgets=part,
            evaluations=evaluations,
            together=evaluations > 0,
            rng=rng,
            on_budget=done,
            start=carried,
            propose=propose,
        )
        joined = _joined(joined, found)
    _write_plan(file, joined)
    return joined


def _search_on(
    config: EnvConfig,
    board: Board,
    cases: Sequence[Case],
    scored: Sequence[Case],
    *,
    settled: Sequence[Case] = (),
) -> Callable[..., Plan]:
    """Return a search with fitted forecasts where the pipeline allows it, else with Newton's.

    Fitted schedules are searched on latents of the cases, weights of the best are fitted on those
    of `settled` if there are any, and what is found is scored on images of others; the others are
    searched and scored on images of the cases.
    """
    try:
        settle = Rollouts(board, settled) if settled else None
        return partial(search_fitted_plan, Rollouts(board, cases), scored, settle=settle)
    except UnsupportedModelError:
        pass

    def search(*, evaluations: int, together: bool = True, **options: Any) -> Plan:
        del together  # Newton's weights need no fit
        settings = ClimbSettings(evaluations, config.reward.psnr, config.reward.ssim)
        return search_plan(board, cases, settings=settings, **options)

    return search


def _joined(plan: Plan, better: Plan) -> Plan:
    """Take the rows of the second plan where it has any."""
    has = better.patterns[:, :1] >= 0
    return plan._replace(
        patterns=np.where(has, better.patterns, plan.patterns),
        quality=np.where(has, better.quality, plan.quality),
        weights=np.where(has[..., None], better.weights, plan.weights),
        floors=np.where(has, better.floors, plan.floors),
    )


def floors_stage(setting: Setting, cases: Sequence[Case], *, file: Path, tick: Tick) -> Plan:
    """Measure on select prompts what quality nearly every image reaches.

    That is at budgets up to the largest named one, and at half of the steps.

    Returns:
        The plan with its floors; full compute reaches everything.
    """
    plan, site_steps = setting.plan, setting.board.steps * setting.board.sites
    if file.exists():
        return plan._replace(floors=np.load(file))
    known = np.flatnonzero(plan.patterns[:, 0] >= 0)
    most = budgets_of(setting.config, site_steps)[-1]
    measured = known[(known <= most) | (known == site_steps // 2)]
    plan = _with_floors(setting, measured.tolist(), cases, tick)
    with replacing(file) as part:
        np.save(part, plan.floors)
    return plan


def safe_stage(
    setting: Setting,
    sample: Sample,
    cases: Sequence[Case],
    *,
    file: Path,
    seed: int,
    tick: Tick,
) -> Plan:
    """Search once more on hard cases alone, at named budgets.

    Returns:
        The plan with the schedules that have the higher floor of PSNR on select prompts.
    """
    if file.exists():
        return _read_plan(file)
    config, board, plan = setting.config, setting.board, setting.plan
    site_steps = board.steps * board.sites
    named = budgets_of(config, site_steps)

    def done(budget: int, psnr: float) -> None:
        tick((named.index(budget) + 1) / len(named) / 2, f"{budget}/{site_steps}: {psnr:.1f} dB")

    found = _search_on(config, board, sample.hard, sample.typical)(
        budgets=named,
        evaluations=config.search.evaluations // 2,
        rng=np.random.default_rng(seed),
        on_budget=done,
        start=plan,
        propose=partial(proposals, Calibration(board, sample.hard)),
    )
    careful = replace(setting, plan=found, baselines={})
    found = _with_floors(careful, named, cases, lambda share, note: tick((1 + share) / 2, note))
    found.patterns[found.floors[:, 0] <= plan.floors[:, 0]] = -1
    safe = _joined(plan, found)
    _write_plan(file, safe)
    return safe


def _with_floors(
    setting: Setting, budgets: Sequence[int], cases: Sequence[Case], tick: Tick
) -> Plan:
    """Return the plan of a setting with the floors of some budgets, and of full compute."""
    site_steps = setting.board.steps * setting.board.sites
    floors = setting.plan.floors.copy()
    floors[site_steps] = PSNR_CAP_DB, 1.0
    for index, budget in enumerate(budgets):
        found = setting.static(cases, [budget] * len(cases))
        floors[budget] = np.percentile(found, 5, axis=1)
        tick((index + 1) / len(budgets), f"{budget}/{site_steps}: {floors[budget, 0]:.1f} dB")
    return setting.plan._replace(floors=floors)


def _write_plan(file: Path, plan: Plan) -> None:
    with replacing(file) as part:
        np.savez(part, **plan._asdict())


def _read_plan(file: Path) -> Plan:
    with np.load(file) as saved:
        return Plan(**saved)
