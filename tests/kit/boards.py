"""Boards for tests: scores in closed form, without a pipeline, and every pipeline of the zoo."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from torch import Tensor

from benchmarks.zoo.pipelines import build, pipeline_unit
from ditcache_rl.bench import Board, Case, Drawn, Quality
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.schedules import Objective, Schedule
from ditcache_rl.search import Calibration, Problem, Space, Trials
from ditcache_rl.types import Floats


class Replicas:
    """A crew of two replicas of a board, which know nothing that they are not told."""

    def __init__(self, board: Board) -> None:
        self._boards = [_replica(board, None) for _ in range(2)]

    def __len__(self) -> int:
        return len(self._boards)

    def share(self, value: Any) -> Any:
        """Give the value with every question."""
        return partial(copy.copy, value)

    def spread(self, board: Board, function: Any, parts: Sequence[Any]) -> Iterator[Any]:
        """Give each part to the next replica, as it travels."""
        for own, part in zip(itertools.cycle(self._boards), parts, strict=False):
            yield function(own, *pickle.loads(pickle.dumps(part)))


def with_replicas(board: Board) -> Board:
    """Return a board that has replicas of it draw."""
    return _replica(board, Replicas(board))


def _replica(board: Board, crew: Replicas | None) -> Board:
    options: dict[str, Any] = {"call": board.call, "rows": board.rows, "blocks": board.blocks}
    return Board(board.pipe, board.steps, sites=board.sites, crew=crew, **options)


class Puzzle:
    """Likes a hidden schedule: 60 dB for it, 1 dB less for every site that differs."""

    def __init__(self, hidden: Schedule, *, rows: int = 8) -> None:
        self.pipe = self.blocks = None  # nothing to calibrate on
        self.steps, self.sites = hidden.modes.shape
        self.rows = rows
        self.hidden = hidden
        #: Every schedule that was scored, in order.
        self.asked: list[Schedule] = []

    def value(self, schedule: Schedule) -> float:
        """Return the decibels of a schedule."""
        return 60.0 - float((schedule.modes != self.hidden.modes).sum())

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Score schedules as a board does, without drawing anything."""
        assert len(cases) == len(schedules)
        assert not any(schedule.coefficients is not None for schedule in schedules)
        self.asked += schedules
        decibels = np.array([self.value(schedule) for schedule in schedules])
        return Quality(decibels, decibels / 60)

    def sigmas(self) -> Floats:
        """Return evenly spaced noise levels."""
        return np.linspace(1, 0, self.steps + 1)


def puzzle_problem(
    puzzle: Puzzle,
    computes: Sequence[int],
    evaluations: int,
    *,
    space: Space | None = None,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Return a problem on a puzzle; nothing can be calibrated there."""
    cases = [Case("", 0)]
    trials = Trials(puzzle, cases, Objective(), space=space)
    calibration = Calibration(cast(Board, puzzle), cases)
    rng = np.random.default_rng(seed)
    return Problem(trials, computes, evaluations, rng, calibration, **options)


class ZooBoard(Board):
    """A tiny pipeline of the zoo, its denoiser cached as a whole; its images are latents.

    Args:
        name: Of the pipeline.
        steps: Denoising steps.
        stack: Its block stack is cached instead.
        call: Further arguments of the call.
    """

    def __init__(self, name: str, steps: int, *, stack: bool = False, **call: Any) -> None:
        pipe = build(name)
        (*_, whole) = denoisers_of(pipe)
        super().__init__(pipe, steps, sites=1, call=call, blocks=None if stack else whole)
        self._unit = pipeline_unit(name, pipe)

    def draw(
        self,
        cases: Sequence[Case],
        controller: Controller | None = None,
        *,
        runner: Any = BlockRunner,
    ) -> Drawn:
        """Draw as many seeds as there are cases; prompts are drawn with them."""

        def images() -> Tensor:
            seeds = [case.seed for case in cases]
            return self._unit.draw(seeds, False, num_inference_steps=self.steps, **self.call)

        if controller is None:
            return Drawn(images(), None, 0.0)
        with runner(self.pipe, controller, TieredCache(), sites=1, blocks=self.blocks):
            return Drawn(images(), None, 0.0)


def hidden_schedule(steps: int, sites: int, seed: int) -> Schedule:
    """Draw a schedule whose first step computes everything."""
    modes = np.random.default_rng(seed).integers(4, size=(steps, sites))
    modes[0] = 0
    return Schedule(modes.astype(np.int8))
