"""Search static schedules of an environment by several methods into one file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.bench import Board, Case, cases_of, keep_profile
from ditcache_rl.bench.run import alone_in, check_run, describe_run, keep_run
from ditcache_rl.config import EnvConfig, check_within
from ditcache_rl.errors import ConfigError, UnsupportedModelError, closest
from ditcache_rl.pipelines import open_configured, pipeline_identity
from ditcache_rl.policy import Manifest, Policy, save_schedules
from ditcache_rl.schedules import Objective, ScheduleTable, Scored, computes_of, rescale
from ditcache_rl.search.methods import METHODS
from ditcache_rl.search.problem import Problem
from ditcache_rl.search.proposals import Calibration, gap_proposals
from ditcache_rl.search.trials import Trials
from ditcache_rl.types import MOST_COUNT, MOST_SEED, UNSEEN, Progress


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What to search, and where to.

    Attributes:
        run: Folder of what an interrupted search goes on from.
        out: The schedule file.
        methods: Names of `METHODS`.
        budgets: Shares of full compute.
        evaluations: Candidates per budget and method.
        prompts: Train prompts that candidates are scored on.
        seed: Of the searches.
        command: What was typed, for the file.
    """

    run: Path
    out: Path
    methods: Sequence[str]
    budgets: Sequence[float]
    evaluations: int
    prompts: int
    seed: int
    command: str

    def check(self, config: EnvConfig) -> None:
        """Refuse what cannot be searched.

        Raises:
            ConfigError: If a method is unknown, a number is out of range, or the run folder belongs
                to another search.
        """
        for name in self.methods:
            if name not in METHODS:
                raise ConfigError(
                    f"--method must be all or among {', '.join(METHODS)}, received {name!r}."
                    f"{closest(name, METHODS)}"
                )
        site_steps = config.steps[0] * config.cache.sites
        for share in self.budgets:
            if not config.cache.sites / site_steps <= share <= 1:
                raise ConfigError(
                    f"--budgets must lie in [{config.cache.sites / site_steps:.3g}, 1], which is "
                    f"from one computed step to all, received {share:g}"
                )
        check_within("--evaluations", self.evaluations, 1, MOST_COUNT)
        check_within("--seed", self.seed, 0, MOST_SEED)
        available = len(config.read_prompts("train"))
        if not 1 <= self.prompts <= available:
            raise ConfigError(
                f"--prompts must lie between 1 and the {available} of {config.prompts.train}, "
                f"received {self.prompts}"
            )
        check_run(self.run, self.facts(config))

    def facts(self, config: EnvConfig) -> dict[str, Any]:
        """Tell what the scores in the run folder depend on, beside the pipeline."""
        return describe_run(config, "search", prompts=self.prompts)


def search_schedules(
    config: EnvConfig, options: SearchOptions, *, progress: Progress = UNSEEN
) -> Path:
    """Search, and write the schedule file.

    The first step count of the environment is searched, the others get its schedules by noise level
    and a score.

    Raises:
        ConfigError: As `SearchOptions.check`.
        UnsupportedModelError: If the only method cannot measure this pipeline; one of several is
            left out with a note.
        KeyboardInterrupt: On Ctrl-C; every candidate that was drawn is kept in the run folder.
    """
    with alone_in(options.run):
        return _search_alone(config, options, progress)


def _search_alone(config: EnvConfig, options: SearchOptions, progress: Progress) -> Path:
    options.check(config)
    pipe = open_configured(config.pipeline)
    identity = pipeline_identity(pipe)
    keep_run(options.run, options.facts(config) | identity)
    cases = cases_of(config, "train")[: options.prompts]
    with progress as bar:
        bar.say("profile")
        first, *others = config.steps
        cost = keep_profile(config, pipe, options.run / f"profile-{first}.json")
        boards = {steps: Board.of(config, pipe, steps=steps) for steps in config.steps}
        found = _search(config, options, boards[first], cases, bar)
        tables = {name: {first: table} for name, table in found.items()}
        for steps in others:
            carried = _carried(config, options, boards[steps], cases, found, bar)
            for name, table in carried.items():
                tables[name][steps] = table
    manifest = Manifest.of(
        config,
        model=identity["model"],
        scheduler=identity["scheduler"],
        cost=cost,
        prompts=options.prompts,
        evaluations=options.evaluations,
        seed=options.seed,
        command=options.command,
    )
    save_schedules({name: Policy(manifest, own) for name, own in tables.items()}, options.out)
    return options.out


def _search(
    config: EnvConfig,
    options: SearchOptions,
    board: Board,
    cases: Sequence[Case],
    bar: Progress,
) -> dict[str, ScheduleTable]:
    """Search with every method at one step count."""
    bar.say("references")
    board.prepare(cases)
    computes = _computes(options, board)
    bar.expect(len(options.methods) * len(computes) * options.evaluations)
    trials = Trials(
        board,
        cases,
        Objective.of(config.reward),
        file=options.run / f"trials-{board.steps}.jsonl",
        on_candidates=bar.advance,
    )
    calibration = Calibration(board, cases, bar.say)
    found = {}
    for index, name in enumerate(options.methods):
        bar.say(name)
        # A method finds the same whatever other methods run beside it.
        rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
        problem = Problem(trials, computes, options.evaluations, rng, calibration)
        try:
            found[name] = METHODS[name](problem)
        except UnsupportedModelError as error:
            if len(options.methods) == 1:
                raise
            bar.note(f"left out {name}: {error}")
        bar.reach((index + 1) * len(computes) * options.evaluations)
    return found


def _carried(
    config: EnvConfig,
    options: SearchOptions,
    board: Board,
    cases: Sequence[Case],
    found: Mapping[str, ScheduleTable],
    bar: Progress,
) -> dict[str, ScheduleTable]:
    """Carry what was found over to another step count, and score it there.

    Fitted schedules may give way to one that is found in full compute there.
    """
    bar.say(f"references of {board.steps} steps")
    board.prepare(cases)
    file = options.run / f"trials-{board.steps}.jsonl"
    trials = Trials(board, cases, Objective.of(config.reward), file=file)
    problem = Problem(
        trials,
        _computes(options, board),
        evaluations=0,
        rng=np.random.default_rng(options.seed),
        calibration=Calibration(board, cases, bar.say),
        propose=gap_proposals,
        fit_together=False,
    )
    tables = {}
    for name, table in found.items():
        bar.say(f"{name} at {board.steps} steps")
        carried = rescale(table, board.sigmas(), computes=problem.computes)
        if any(one.schedule.coefficients is not None for one in table.values()):
            tables[name] = METHODS["fitted"](replace(problem, start=carried))
            continue
        schedules = [carried[computes].schedule for computes in problem.computes]
        scores = trials.look_up(schedules)
        pairs = zip(schedules, scores, strict=True)
        tables[name] = problem.table(Scored(schedule, *score) for schedule, score in pairs)
    return tables


def _computes(options: SearchOptions, board: Board) -> list[int]:
    site_steps = board.steps * board.sites
    return sorted({max(board.sites, computes_of(b, site_steps)) for b in options.budgets})
