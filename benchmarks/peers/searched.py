"""The schedules that `frontier.py` compares: searched once by so much, then kept.

Schedules are chosen on train prompts, settings of peers on select prompts. The published searches
keep to their published form: what they may compute, and how the steps between are filled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contender import Setup, denoiser_name
from benchmarks.peers.contenders import (
    DPCACHE_COMPUTES,
    OWN_COMPUTES,
    PUBLISHED_COMPUTES,
)
from benchmarks.peers.learned import LEARNERS, fitted, fitted_key, learned
from benchmarks.peers.settings import SETTINGS, settings_of
from benchmarks.peers.under_runner import FEWER_BLOCKS
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.files import replacing
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import pipeline_identity
from ditcache_rl.schedules import ComputePath, Objective, Schedule, ScheduleTable
from ditcache_rl.search import METHODS, Calibration, Problem, Space, Trials
from ditcache_rl.search.calibrate import gap_costs, measure_gaps
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.paths import cheapest_path, minimax_path
from ditcache_rl.types import HISTORY, Mode

Entry = dict[str, Any]
"""What the file holds: of a pipeline, or a schedule, which is `modes` as `Schedule.text`, and
`weights`, its coefficients by step if it has any."""

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
    fit: Sequence[Case],
    judge: Sequence[Case],
    evaluations: int,
    table: ScheduleTable | None,
    file: Path,
    say: Callable[[str], None],
) -> Entry:
    """Read what was searched for a pipeline by as much as this, or search and keep it.

    Ours and the published schedules are searched on the same prompts, with as many candidates. What
    fails is said, and tried again the next time; the rest is kept as soon as it is there.

    Args:
        pipe: The pipeline.
        steps: Denoising steps.
        call: Further arguments of its call.
        cases: Train prompts.
        learn: Train prompts that solvers are learned on.
        select: Select prompts, on which settings of peers are chosen.
        fit: Train prompts that our updates are fitted to.
        judge: Select prompts that tell which way of it gains.
        evaluations: Candidates per number of computes, of a search that draws them.
        table: The policy's schedules of the whole denoiser at these steps; None if it has others.
        file: Where those of many pipelines, and of more and less searching, are kept.
        say: Hears what is being searched.

    Returns:
        `schedules`, `solvers` and `schedulers` by contender and computed steps, `settings` by
        contender, what
        they belong to, and errors by contender of those that `failed`.
    """
    key = {
        **pipeline_identity(pipe),
        "steps": steps,
        "call": call,
        "prompts": len(cases),
        "learn": len(learn),
        "select": len(select),
        "fit": len(fit),
        "judge": len(judge),
        "evaluations": evaluations,
    }
    kept: list[Entry] = json.loads(file.read_text()) if file.exists() else []
    kept = [one for one in kept if key.keys() <= one.keys()]  # what says less can't be trusted
    entry = next((one for one in kept if {name: one[name] for name in key} == key), None)
    if entry is None:
        entry = dict(key)
        kept.append(entry)
    setting = partial(settings_of, pipe=pipe, steps=steps, call=call, cases=select)
    learning = partial(learned, pipe=pipe, steps=steps, call=call, cases=learn, say=say)
    kinds: dict[str, dict[str, Callable[[], Any]]] = {
        "schedules": ScheduleSearch(pipe, steps, call, cases, evaluations, say).ways(),
        "solvers": {name: partial(learning, name) for name in LEARNERS},
        "schedulers": {}
        if table is None
        else {fitted_key(table): partial(fitted, pipe, call, fit, judge, table, say)},
        "settings": {name: partial(setting, name) for name in SETTINGS}
        | {FEWER_BLOCKS: lambda: {"order": _order(pipe, steps, call, cases[:_HARM_CASES])}},
    }
    failed: dict[str, str] = {}
    for kind, ways in kinds.items():
        found = entry.setdefault(kind, {})
        for name in [name for name in ways if name not in found]:
            say(f"searching {name}")
            try:
                found[name] = ways[name]()
            except Exception as error:  # what a peer raises is its result
                failed[name] = f"{type(error).__name__}: {error}"[:300]
                say(f"without {name}: {failed[name]}")
            else:
                _write(file, kept)
    return entry | {"failed": failed}


def _write(file: Path, kept: Sequence[Entry]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial_file:
        partial_file.write_text(json.dumps(kept, indent=1) + "\n")


class ScheduleSearch:
    """Searches schedules of one pipeline; what several searches need is measured once.

    Args:
        pipe: The pipeline.
        steps: Denoising steps.
        call: Further arguments of its call.
        cases: Train prompts.
        evaluations: Candidates per number of computes.
        say: Hears what is being measured.
    """

    def __init__(
        self,
        pipe: Any,
        steps: int,
        call: dict[str, Any],
        cases: Sequence[Case],
        evaluations: int,
        say: Callable[[str], None],
    ) -> None:
        self._steps, self._cases, self._evaluations, self._say = steps, cases, evaluations, say
        self._stack, self._whole = (
            Calibration(Board(pipe, steps, sites=1, call=call, blocks=blocks), cases, say)
            for blocks in (None, denoiser_name(pipe))
        )

    def ways(self) -> dict[str, Callable[[], dict[str, Entry]]]:
        """Return the searches, by contender."""
        return {
            "DPCache": self._dpcache,
            "MeanCache-like": self._meancache,
            "LeMiCa": self._lemica,
            "BudCache": self._budcache,
            "whole denoiser": self._own,
        }

    def _counts(self, counts: Sequence[int]) -> list[int]:
        return sorted(count for count in counts if count < self._steps)

    def _dpcache(self) -> dict[str, Entry]:
        errors = self._stack.errors().displacement[Mode.FORECAST1]
        counts = self._counts(DPCACHE_COMPUTES)
        return _paths(self._steps, counts, lambda n: _after_three(errors, n))

    def _meancache(self) -> dict[str, Entry]:
        """Choose by errors of what the denoiser returns: MeanCache carries the velocity on."""
        errors = self._whole.errors().displacement[Mode.FORECAST1]
        peaks, counts = gap_costs(errors, power=_GAMMA), self._counts(PUBLISHED_COMPUTES)
        return _paths(self._steps, counts, lambda n: cheapest_path(peaks, n))

    def _lemica(self) -> dict[str, Entry]:
        board, longest = self._stack.board, self._steps - 1
        gaps = measure_gaps(board, self._cases[:_GAP_CASES], Mode.REUSE, longest=longest)
        counts = self._counts(PUBLISHED_COMPUTES)
        return _paths(self._steps, counts, lambda n: minimax_path(gaps, n), Mode.REUSE)

    def _budcache(self) -> dict[str, Entry]:
        space = Space(self._steps, 1, between=(Mode.REUSE,))
        return self._drawn("anneal", self._stack, space, PUBLISHED_COMPUTES)

    def _own(self) -> dict[str, Entry]:
        space = Space(self._steps, 1)
        try:
            return self._drawn("fitted", self._whole, space, OWN_COMPUTES)
        except UnsupportedModelError as error:  # its loop can't be taken apart
            self._say(f"whole denoiser without fitted forecasts: {error}")
            return self._drawn("polish", self._whole, space, OWN_COMPUTES)

    def _drawn(
        self, method: str, calibration: Calibration, space: Space, counts: Sequence[int]
    ) -> dict[str, Entry]:
        """Search by drawing candidates."""
        trials = Trials(calibration.board, self._cases, Objective(), space=space)
        rng = np.random.default_rng(0)
        problem = Problem(trials, self._counts(counts), self._evaluations, rng, calibration)
        table = METHODS[method](problem)
        return {str(n): write_entry(scored.schedule) for n, scored in table.items()}


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
) -> list[int]:
    """Rank blocks by what reusing each alone at every second step does to the images."""
    blocks = len(find_blocks(denoiser_of(pipe)))
    board = Board(pipe, steps, sites=blocks, call=call)
    modes = np.zeros((blocks, steps, blocks), dtype=np.int8)
    for block in range(blocks):
        modes[block, 1::2, block] = Mode.REUSE
    quality = board.score(
        [case for case in cases for _ in range(blocks)], [*map(Schedule, modes)] * len(cases)
    ).psnr_db.reshape(len(cases), blocks)
    return [int(block) for block in np.argsort(-quality.mean(axis=0))]


def with_schedules(setup: Setup, entry: dict[str, Any], table: ScheduleTable | None) -> Setup:
    """Hand what was searched to the contenders; `table` as of `schedules_for`."""
    schedules = {name: _read_schedules(found) for name, found in entry["schedules"].items()}
    solvers = {
        name: {int(computes): FreeSolver.read(one) for computes, one in found.items()}
        for name, found in entry["solvers"].items()
    }
    key = "" if table is None else fitted_key(table)
    fitted_ones = entry["schedulers"].get(key, {})
    return replace(
        setup,
        schedules=schedules,
        solvers=solvers,
        schedulers={int(computes): one for computes, one in fitted_ones.items()},
        settings=entry.get("settings", {}),
        failed=entry.get("failed", {}),
    )


def _read_schedules(found: dict[str, Entry]) -> dict[int, Schedule]:
    return {int(computes): read_entry(one) for computes, one in found.items()}


def write_entry(schedule: Schedule) -> Entry:
    """Write a schedule as the file of schedules holds it."""
    own = [] if schedule.coefficients is None else schedule.coefficients.tolist()
    weights = [[round(x, 7) for x in one] if np.isfinite(one[0]) else [] for one in own]
    return {"modes": schedule.text, "weights": weights}


def read_entry(entry: Entry) -> Schedule:
    """Invert `write_entry`."""
    own = [one or [np.nan] * HISTORY for one in entry["weights"]]
    return Schedule.from_text(entry["modes"], np.array(own) if own else None)
