"""The stages of a training run; each leaves a file and is skipped where that is there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ditcache_rl.bench import Board, Case, Scorer, named_computes
from ditcache_rl.bench.run import read_kept
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import parse_json, read_bytes, replacing, write_json
from ditcache_rl.rl.floors import with_floors
from ditcache_rl.rl.scenario import Scenario
from ditcache_rl.schedules import (
    Objective,
    ScheduleTable,
    Scored,
    rescale,
    spaced_table,
)
from ditcache_rl.search import (
    METHODS,
    Calibration,
    GapFitter,
    Problem,
    Sample,
    Trials,
    gap_proposals,
    sample_cases,
)
from ditcache_rl.types import Tick

#: Cases of searches that begin near what they look for.
FEW_CASES = 8
#: Of what a stage leaves: a table of a thousand steps and schedules has 30 MB.
_MOST_BYTES = 1 << 28


def sample_stage(board: Board, cases: Sequence[Case], count: int, *, file: Path) -> Sample:
    """Choose typical and hard cases for the searches."""

    def read(kept: Path) -> Sample:
        parts = parse_json(read_bytes(kept, _MOST_BYTES))
        found = Sample(*([Case(prompt, seed) for prompt, seed in part] for part in parts))
        if not found.mixed or not {case for part in found for case in part} <= set(cases):
            raise ArtifactError("prompts or seeds of something else")
        return found

    if file.exists():
        return read_kept(file, read)
    sample = sample_cases(board, cases, count)
    write_json(file, sample)
    return sample


def search_stage(
    config: EnvConfig, board: Board, sample: Sample, *, file: Path, seed: int, tick: Tick
) -> ScheduleTable:
    """Search a static schedule for every count of whole steps up to the largest named budget.

    Above that, up to half of the steps, images of a few cases tell what is best: steps spaced
    evenly, those whose gaps lack the least, or, up to `most_share`, one more than the schedule
    below. At some counts beyond steps are spaced evenly.
    """
    if file.exists():
        return read_table(file, board)
    site_steps = board.steps * board.sites
    below, beyond, above = searched_computes(config, board.steps, board.sites)
    evaluations = config.search.evaluations
    work = {n: n * (evaluations + 7) for n in below} | {n: n for n in beyond + above}
    spent = 0

    def done(scored: Scored) -> None:
        nonlocal spent
        computes = scored.schedule.computes
        spent += work[computes]
        tick(spent / sum(work.values()), f"{computes}/{site_steps} computed: {_db(scored)}")

    rng = np.random.default_rng(seed)
    problem = _problem(config, board, sample.mixed, sample.typical, rng=rng)
    table = _search(replace(problem, computes=below, on_found=done))
    few = _problem(config, board, sample.mixed[:FEW_CASES], sample.typical[:FEW_CASES], rng=rng)
    even = spaced_table(board.sigmas(), board.sites)
    few = replace(few, calibration=problem.calibration, propose=gap_proposals, start=even)
    few = replace(few, evaluations=0, fit_together=False, on_found=done)
    half = sum(count <= site_steps // 2 for count in above)
    for part in (
        replace(few, computes=beyond, before=table[below[-1]].schedule),
        replace(few, computes=above[:half]),
        replace(few, computes=above[half:], propose=None),
    ):
        if part.computes:
            table = table.with_lines(_search(part))
    write_table(file, table)
    return table


def searched_computes(
    config: EnvConfig, steps: int, sites: int
) -> tuple[list[int], list[int], list[int]]:
    """List the site computes that get a schedule: searched, grown from these, and spaced evenly."""
    site_steps = steps * sites
    whole = [count * sites for count in range(2, steps + 1)]
    named = named_computes(config, steps)
    below = sorted({*named, *(n for n in whole if n <= named[-1])})
    beyond = [n for n in whole if named[-1] < n <= config.search.most_share * site_steps]
    # Thinned out from the top: full compute must be there.
    thinned = {*whole[:: -max(1, steps // 7)], *(n for n in whole if n <= site_steps // 2)}
    above = sorted(count for count in thinned if count > max(below + beyond))
    return below, beyond, above


def rescale_stage(
    config: EnvConfig,
    table: ScheduleTable,
    board: Board,
    sample: Sample,
    *,
    file: Path,
    seed: int,
    tick: Tick,
) -> ScheduleTable:
    """Carry schedules over to another step count, and climb a little at named budgets.

    On few cases: what is carried over, or found in full compute, is good already. Coefficients that
    are fitted together need more of them: half of what the first step count has. Where more steps
    compute than the largest named budget has at the first step count, there is no climb, gaps are
    fitted one by one, and so are those of the schedules between that are carried over without a
    fit.
    """
    if file.exists():
        return read_table(file, board)
    site_steps = board.steps * board.sites
    most = named_computes(config, config.steps[0])[-1]
    counts = [count for count in named_computes(config, board.steps) if count >= table.least]
    carried = rescale(table, board.sigmas(), computes=counts)
    bare = [n for n, one in carried.items() if one.schedule.coefficients is None]
    if len(bare) < len(carried):
        counts = sorted({*counts, *(n for n in bare if most < n < max(counts, default=0))})

    def done(scored: Scored) -> None:
        computes = scored.schedule.computes
        share = (counts.index(computes) + 1) / len(counts)
        tick(share, f"{computes}/{site_steps} computed: {_db(scored)}")

    problem = _problem(
        config,
        board,
        sample.mixed[:FEW_CASES],
        sample.typical[:FEW_CASES],
        rng=np.random.default_rng(seed),
    )
    problem = replace(problem, start=carried, propose=gap_proposals, on_found=done)
    every = sample.mixed[: -(-len(sample.mixed) // 2)] if problem.fit_on else ()
    near = replace(problem, evaluations=config.search.evaluations // 4, settle_on=every)
    far = replace(problem, evaluations=0, fit_together=False)
    joined = carried
    for part, one in (
        ([n for n in counts if n <= most], near),
        ([n for n in counts if n > most], far),
    ):
        if part:
            joined = joined.with_lines(_search(replace(one, computes=part)))
    write_table(file, joined)
    return joined


def _problem(
    config: EnvConfig,
    board: Board,
    cases: Sequence[Case],
    scored: Sequence[Case],
    *,
    rng: np.random.Generator,
) -> Problem:
    """Set a search up, with fitted forecasts where the pipeline allows it.

    Fitted schedules are searched on latents of the cases and scored on images of others; the others
    are searched and scored on images of the cases.
    """
    fits = GapFitter.is_possible(board, cases)
    return Problem(
        Trials(board, scored if fits else cases, Objective.of(config.reward)),
        computes=(),
        evaluations=config.search.evaluations,
        rng=rng,
        calibration=Calibration(board, cases),
        fit_on=cases if fits else (),
    )


def _search(problem: Problem) -> ScheduleTable:
    return METHODS["fitted" if problem.fit_on else "polish"](problem)


def _db(scored: Scored) -> str:
    return f"{scored.psnr_db:.1f} dB"


def floors_stage(
    scenario: Scenario, cases: Sequence[Case], *, file: Path, tick: Tick
) -> ScheduleTable:
    """Measure on select prompts what quality nearly every image reaches.

    That is up to the largest named budget, and at half of the steps.

    Returns:
        The table with its floors; full compute reaches everything.
    """
    if file.exists():
        return read_table(file, scenario.board)
    table = scenario.table
    most = named_computes(scenario.config, table.steps)[-1]
    measured = [n for n in table if n <= most or n == table.site_steps // 2]
    table = with_floors(scenario, measured, cases, tick)
    write_table(file, table)
    return table


def safe_stage(
    scenario: Scenario,
    sample: Sample,
    cases: Sequence[Case],
    *,
    file: Path,
    seed: int,
    tick: Tick,
) -> ScheduleTable:
    """Search once more on hard cases alone, at named budgets.

    Returns:
        The table with the schedules that have the higher floor of PSNR on select prompts.
    """
    if file.exists():
        return read_table(file, scenario.board)
    config, board, table = scenario.config, scenario.board, scenario.table
    named = named_computes(config, board.steps)

    def done(scored: Scored) -> None:
        computes = scored.schedule.computes
        share = (named.index(computes) + 1) / len(named) / 2
        tick(share, f"{computes}/{table.site_steps}: {_db(scored)}")

    rng = np.random.default_rng(seed)
    problem = _problem(config, board, sample.hard, sample.typical[:FEW_CASES], rng=rng)
    problem = replace(problem, computes=named, start=table, on_found=done)
    found = _search(replace(problem, evaluations=config.search.evaluations // 2))
    careful = replace(scenario, table=found, baselines={})
    found = with_floors(careful, named, cases, lambda share, note: tick((1 + share) / 2, note))
    higher = {
        computes: one
        for computes, one in found.items()
        if not (computes in table and one.floor_psnr_db <= table[computes].floor_psnr_db)
    }
    safe = table.with_lines(higher)
    write_table(file, safe)
    return safe


def write_table(file: Path, table: ScheduleTable) -> None:
    """Keep what a stage has found."""
    with replacing(file) as part:
        np.savez(part, allow_pickle=False, **table.to_arrays())


def read_table(file: Path, board: Scorer) -> ScheduleTable:
    """Read what a stage has left, for a board of the same steps and sites."""

    def read(kept: Path) -> ScheduleTable:
        with np.load(io.BytesIO(read_bytes(kept, _MOST_BYTES))) as saved:
            table = ScheduleTable.from_arrays(saved)
        if (table.steps, table.sites) != (board.steps, board.sites):
            raise ArtifactError(f"schedules of {table.steps} steps and {table.sites} sites")
        return table

    return read_kept(file, read)
