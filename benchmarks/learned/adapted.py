"""Bring a policy to an environment that it was not made for, counting what that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np

from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.inference import Tables
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import ComputePath, Objective, Schedule, carry, spaced
from ditcache_rl.schedules.spacing import pay_up
from ditcache_rl.search import (
    Calibration,
    GapFitter,
    Problem,
    Space,
    Trials,
    gap_proposals,
    proposals,
)
from ditcache_rl.search.climb import climb_paths
from ditcache_rl.types import Floats

#: Train prompts of a search, and test prompts.
TRAIN, TEST = 16, 24
#: Candidates after which an adaptation is measured, and those of the dedicated search.
CANDIDATES, DEDICATED = (1, 4, 16), 48
_NONE: Mapping[str, Any] = MappingProxyType({})


class NewEnvironment(NamedTuple):
    """An environment that the policy was not made for."""

    steps: int
    options: Mapping[str, Any] = _NONE
    """How the pipeline is opened."""
    call: Mapping[str, Any] = _NONE
    scheduler: Mapping[str, Any] = _NONE
    """What differs in the configuration of the sampler."""
    computed: int = 5
    """Steps that schedules compute: a quarter of 20, 18 % of 28, a tenth of 50."""
    env: str = "shapes"
    """Environment file, or name of a shipped one, that all this differs from."""


ENVIRONMENTS = {
    "20_steps": NewEnvironment(20),
    "24_steps": NewEnvironment(24),
    "36_steps": NewEnvironment(36),
    "50_steps": NewEnvironment(50),
    "11_computed": NewEnvironment(28, computed=11),
    "shift_3": NewEnvironment(28, scheduler={"shift": 3.0}),
    "48_px": NewEnvironment(28, call={"height": 48, "width": 48}),
    "96_px": NewEnvironment(28, call={"height": 96, "width": 96}),
    "pruned": NewEnvironment(28, options={"prune": ["transformer.single_transformer_blocks.3"]}),
    "guided": NewEnvironment(28, env="shapes-guided"),
}


class Point(NamedTuple):
    """What a search would ship after some episodes."""

    candidates: int
    episodes: float
    psnr_db: float


class Meter:
    """Counts what a denoiser computes, in images of full compute.

    Args:
        board: Its pipeline and steps.
        case: Drawn once, to see how many rows an image of full compute takes.
    """

    def __init__(self, board: Board, case: Case) -> None:
        self._denoiser, self._rows = denoiser_of(board.pipe), 0
        with self:
            board.draw([case])
        self._image_rows = self._rows

    @property
    def episodes(self) -> float:
        """Images since it was entered."""
        return self._rows / self._image_rows

    def __enter__(self) -> Self:
        """Begin to count, from none."""
        self._rows = 0
        self._handle = self._denoiser.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._handle.remove()

    def _note(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._rows += len(kwargs["hidden_states"])


def new_board(config: EnvConfig, new: NewEnvironment) -> Board:
    """Set an environment up, from the file that it differs from."""
    source = config.pipeline
    pipe = open_pipeline(source.source, device=source.device, **new.options)
    kind = type(pipe.scheduler)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **new.scheduler)
    board = Board.of(config, pipe, steps=new.steps)
    board.call = {**board.call, **new.call}
    return board


def adapt(board: Board, config: EnvConfig, policy: Policy, computed: int) -> dict[str, Any]:
    """Adapt to one environment from both starts, and make a policy for it alone.

    Args:
        board: The new environment.
        config: For its prompts.
        policy: Of other environments.
        computed: Steps that schedules compute, at most.
    """
    cases, test = cases_of(config, "train")[:TRAIN], cases_of(config, "test")[:TEST]
    board.prepare(test)
    meter = Meter(board, test[0])
    problem = Problem(
        Trials(board, cases, Objective()),
        (computed,),
        DEDICATED,
        np.random.default_rng(0),
        Calibration(board, cases),
        propose=_proposed,
    )
    starts = {
        "carried": _carried(policy, board.sigmas(), computed),
        "even": [
            spaced(board.steps, 1, computed),
            *problem.first(computed, None, propose=False),
        ],
    }
    points = {
        way: adapted(board, meter, cases, first, computed, partial(_score_db, board, test))
        for way, first in starts.items()
    }
    with meter:
        fitter = GapFitter(board, cases)
        path = climb_paths(
            fitter.errors,
            [one.path for one in problem.first(computed, None, propose=True)],
            board.steps,
            evaluations=DEDICATED,
            rng=problem.rng,
        )
        made = fitter.fit(path)
    dedicated = Point(DEDICATED, meter.episodes, _score_db(board, test, made))
    return {"nodes": path, "dedicated": dedicated} | points


def _proposed(calibration: Calibration, space: Space, computed: int) -> list[Schedule]:
    return gap_proposals(calibration, space, computed) + proposals(calibration, space, computed)


def _carried(policy: Policy, sigmas: Floats, computed: int) -> list[Schedule]:
    """Return what the policy does in a run, and what each of its tables alone would have it do."""
    own = list(policy.tables.values())
    tables = [Tables(own, policy.pacer).at(sigmas), *(carry([one], sigmas) for one in own)]
    return [table.within(computed) for table in tables]


def adapted(
    board: Board,
    meter: Meter,
    cases: Sequence[Case],
    first: Sequence[Schedule],
    computed: int,
    score: Callable[[Schedule], float],
) -> list[Point]:
    """Search from some schedules on, and tell what would be shipped on the way."""
    seen: list[tuple[float, ComputePath, float]] = []
    with meter:
        fitter = GapFitter(board, cases)

        def errors(paths: Sequence[ComputePath]) -> list[float]:
            found = []
            for path in paths:
                found.append(fitter.error(path))
                seen.append((found[-1], path, meter.episodes))
            return found

        climb_paths(
            errors,
            [pay_up(Schedule(one.modes), computed).path for one in first],
            board.steps,
            evaluations=CANDIDATES[-1],
            rng=np.random.default_rng(0),
        )
    points = [Point(0, 0.0, score(first[0]))]
    fits: dict[ComputePath, tuple[float, float]] = {}
    for count in CANDIDATES:
        _, path, _ = min(seen[:count])
        if path not in fits:
            with meter:
                fitted = fitter.fit(path)
            fits[path] = meter.episodes, score(fitted)
        fit, psnr = fits[path]
        points.append(Point(count, seen[:count][-1][2] + fit, psnr))
    return points


def _score_db(board: Board, cases: Sequence[Case], schedule: Schedule) -> float:
    """Return the mean PSNR against full compute."""
    return float(board.score(cases, [schedule] * len(cases)).psnr_db.mean())
