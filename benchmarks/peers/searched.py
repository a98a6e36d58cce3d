"""The schedules that `frontier.py` compares: searched once per pipeline and step count, then kept.

Schedules are chosen on train prompts, settings of peers on select prompts. The published searches
keep to their published form: what they may compute, and how the steps between are filled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contender import Setup, denoiser_name
from benchmarks.peers.contenders import OWN_COMPUTES, PUBLISHED_COMPUTES
from benchmarks.peers.learned import LEARNERS, learned
from benchmarks.peers.settings import SETTINGS, settings_of
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import pipeline_identity
from ditcache_rl.schedules import ComputePath, Objective, Schedule
from ditcache_rl.search import METHODS, Calibration, Problem, Space, Trials, proposals
from ditcache_rl.search.calibrate import gap_costs, measure_gaps
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.paths import cheapest_path, minimax_path
from ditcache_rl.types import HISTORY, Mode

Entry = dict[str, Any]
"""A schedule: `modes` as `Schedule.text`, and `weights`, its coefficients by step if it has any."""

#: How much more than their sum large errors count in MeanCache (its gamma).
_GAMMA = 4.0
#: Cases of LeMiCa's gaps, each of which takes a run: 1 gives 24.51 dB, 350 give 24.67 (its paper).
_GAP_CASES = 1
#: Cases that a block's harm is measured on.
_HARM_CASES = 2


def schedules_for(
    pipe: Any,
    *,
    steps: int,
    call: dict[str, Any],
    cases: Sequence[Case],
    learn: Sequence[Case],
    select: Sequence[Case],
    evaluations: int,
    file: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Read the schedules of a pipeline, or search and keep them.

    Args:
        pipe: The pipeline.
        steps: Denoising steps.
        call: Further arguments of its call.
        cases: Train prompts.
        learn: Train prompts that solvers are learned on.
        select: Select prompts, on which what was learned and settings of peers are chosen.
        evaluations: Candidates per number of computes, of a search that draws them.
        file: Where schedules of many pipelines are kept.
        say: Hears what is being searched.

    Returns:
        `schedules` and `solvers` by contender and computed steps, `settings` by contender, the
        `order` of blocks, and what they belong to.
    """
    identity: dict[str, Any] = {
        **pipeline_identity(pipe),
        "steps": steps,
        "call": call,
    }
    kept: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    same = [one for one in kept if {name: one[name] for name in identity} == identity]
    entry: dict[str, Any] = (
        same[0]
        if same
        else identity
        | {
            "prompts": len(cases),
            "evaluations": evaluations,
            "schedules": _search(pipe, steps, call, cases, evaluations, say),
            "order": _order(pipe, steps, call, cases[:_HARM_CASES], say),
        }
    )
    if not same:
        kept.append(entry)
    for name in [name for name in LEARNERS if name not in entry.setdefault("solvers", {})]:
        say(f"learning {name}")
        entry["solvers"][name] = learned(name, pipe, steps, call, learn, select, say)
    for name in [name for name in SETTINGS if name not in entry.setdefault("settings", {})]:
        say(f"setting {name}")
        entry["settings"][name] = settings_of(name, pipe, steps, call, select)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n")
    return entry


def _search(
    pipe: Any,
    steps: int,
    call: dict[str, Any],
    cases: Sequence[Case],
    evaluations: int,
    say: Callable[[str], None],
) -> dict[str, dict[str, Entry]]:
    stack = Board(pipe, steps, sites=1, call=call)
    whole = Board(pipe, steps, sites=1, call=call, blocks=denoiser_name(pipe))
    stack.prepare(cases)
    whole.prepare(cases)
    calibration = Calibration(stack, cases, say)
    published = [count for count in PUBLISHED_COMPUTES if 2 < count < steps]
    try:
        found = _calibrated(calibration, steps, published)
    except UnsupportedModelError as error:  # its loop can't be taken apart
        say(f"without DPCache, MeanCache, LeMiCa: {error}")
        found = {}
    for name, board, method, counts, between in (
        ("BudCache", stack, "anneal", published, (Mode.REUSE,)),
        ("whole denoiser", whole, "fitted", [n for n in OWN_COMPUTES if n < steps], None),
    ):
        say(f"searching {name}")
        space = Space(steps, 1) if between is None else Space(steps, 1, between=between)
        trials = Trials(board, cases, Objective(), space=space)
        rng = np.random.default_rng(0)
        problem = Problem(
            trials,
            sorted(counts),
            evaluations,
            rng,
            Calibration(board, cases, say),
            # From what the stack adds, for both: it is measured already.
            propose=lambda _, space, computes: proposals(calibration, space, computes),
        )
        try:
            table = METHODS[method](problem)
        except UnsupportedModelError as error:
            say(f"{name} without fitted forecasts: {error}")
            table = METHODS["polish"](problem)
        found[name] = {str(n): write_entry(scored.schedule) for n, scored in table.items()}
    return found


def _calibrated(
    calibration: Calibration, steps: int, counts: Sequence[int]
) -> dict[str, dict[str, Entry]]:
    """Choose schedules by measured errors alone."""
    errors = calibration.errors().displacement[Mode.FORECAST1]
    gaps = measure_gaps(
        calibration.board, calibration.cases[:_GAP_CASES], Mode.REUSE, longest=steps // 2
    )
    peaks = gap_costs(errors, power=_GAMMA)
    return {
        "DPCache": _paths(steps, counts, lambda n: _after_three(errors, n)),
        "MeanCache-like": _paths(steps, counts, lambda n: cheapest_path(peaks, n)),
        "LeMiCa": _paths(steps, counts, lambda n: minimax_path(gaps, n), Mode.REUSE),
    }


def _paths(
    steps: int,
    counts: Sequence[int],
    choose: Callable[[int], ComputePath],
    fill: Mode = Mode.FORECAST1,
) -> dict[str, Entry]:
    """Write the paths that a rule chooses as schedules."""
    found: dict[str, Entry] = {}
    for computes in counts:
        modes = np.full((steps, 1), fill, dtype=np.int8)
        modes[list(choose(computes))] = Mode.COMPUTE
        found[str(computes)] = write_entry(Schedule(modes))
    return found


def _after_three(errors: np.ndarray[Any, Any], computes: int) -> ComputePath:
    """Choose as DPCache does: the first three steps are computed, whatever they are worth."""
    costs = gap_costs(errors)
    for step in (1, 2):
        costs[:step, :step, step + 1 :] = np.inf
    return cheapest_path(costs, computes)


def _order(
    pipe: Any,
    steps: int,
    call: dict[str, Any],
    cases: Sequence[Case],
    say: Callable[[str], None],
) -> list[int]:
    """Rank blocks by what reusing each alone at every second step does to the images."""
    say("ranking blocks")
    blocks = len(find_blocks(denoiser_of(pipe)))
    board = Board(pipe, steps, sites=blocks, call=call)
    modes = np.zeros((blocks, steps, blocks), dtype=np.int8)
    for block in range(blocks):
        modes[block, 1::2, block] = Mode.REUSE
    quality = board.score(
        [case for case in cases for _ in range(blocks)], [*map(Schedule, modes)] * len(cases)
    ).psnr_db.reshape(len(cases), blocks)
    return [int(block) for block in np.argsort(-quality.mean(axis=0))]


def with_schedules(setup: Setup, entry: dict[str, Any]) -> Setup:
    """Hand what was searched to the contenders."""
    schedules = {
        name: {int(computes): read_entry(one) for computes, one in found.items()}
        for name, found in entry["schedules"].items()
    }
    solvers = {
        name: {int(computes): FreeSolver.read(one) for computes, one in found.items()}
        for name, found in entry["solvers"].items()
    }
    return replace(
        setup,
        schedules=schedules,
        order=tuple(entry["order"]),
        solvers=solvers,
        settings=entry.get("settings", {}),
    )


def write_entry(schedule: Schedule) -> Entry:
    """Write a schedule as the file of schedules holds it."""
    own = [] if schedule.coefficients is None else schedule.coefficients.tolist()
    weights = [[round(x, 7) for x in one] if np.isfinite(one[0]) else [] for one in own]
    return {"modes": schedule.text, "weights": weights}


def read_entry(entry: Entry) -> Schedule:
    """Invert `write_entry`."""
    own = [one or [np.nan] * HISTORY for one in entry["weights"]]
    return Schedule.from_text(entry["modes"], np.array(own) if own else None)
