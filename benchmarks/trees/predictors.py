"""Rank what a learner would observe by what it tells of the gain of a prompt's own schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from benchmarks.trees.table import STEPS
from benchmarks.trees.yardstick import DIFFERENT_DB, Yardstick
from ditcache_rl.bench import Board, Case
from ditcache_rl.control import StaticSchedule
from ditcache_rl.control.observation import FeatureBuilder, RowTargets, schema
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo


class _Watcher:
    """Follows a schedule and notes what a learner would observe on the way.

    It does not tell its future: who does is not asked where there is nothing to decide.
    """

    probe_blocks = 0

    def __init__(self, schedule: Schedule, notes: list[NDArray[np.float32]]) -> None:
        self._static = StaticSchedule(schedule)
        self._computes, self._notes = schedule.computes, notes

    def reset(self, run: RunInfo) -> None:
        self._static.reset(run)
        self._builder = FeatureBuilder()
        targets = RowTargets(np.full(run.rows, self._computes), np.zeros(run.rows))
        self._builder.reset(run, targets)

    def decide(self, info: StepInfo) -> Decision:
        decision = self._static.decide(info)
        self._notes.append(self._builder.observe(info, [[]] * info.run.rows))
        self._builder.note((decision.modes == Mode.COMPUTE).sum(axis=1).tolist())
        return decision


class Predictor(NamedTuple):
    """How one feature at one step goes with what a prompt's own best schedule gains."""

    feature: str
    step: int
    spearman_choose: float
    spearman_held_out: float
    auc_held_out: float
    """Of telling the prompts that gain more than `DIFFERENT_DB`; 0.5 is chance."""


def predictors(board: Board, yardstick: Yardstick, *, most: int = 10) -> list[Predictor]:
    """Rank features along the static schedule by what they tell of the oracle's gain.

    They are ranked on the prompts to choose on, and judged on the held-out ones.
    """
    table = yardstick.table
    names = schema(1, 0, 0)
    sides = []
    for half in (table.choose, table.held_out):
        gains = half.psnr_db[:, yardstick.index].max(axis=1) - half.psnr_db[:, yardstick.chosen]
        sides.append((_watch(board, yardstick, half.cases), gains))
    (seen, gains), (seen_too, gains_too) = sides
    found = []
    for step in range(1, STEPS):
        for place, name in enumerate(names):
            before, after = seen[step, :, place], seen_too[step, :, place]
            if all(np.ptp(one) > 0 for one in (before, after, gains, gains_too)):
                found.append(
                    Predictor(
                        name,
                        step,
                        float(spearmanr(before, gains).statistic),
                        float(spearmanr(after, gains_too).statistic),
                        auc(after, gains_too > DIFFERENT_DB),
                    )
                )
    found.sort(key=lambda one: -abs(one.spearman_choose))
    return found[:most]


def _watch(board: Board, yardstick: Yardstick, cases: Sequence[Case]) -> NDArray[np.float32]:
    """Return what is observed along the static schedule: (steps, cases, features)."""
    parts = []
    for start in range(0, len(cases), board.rows):
        notes: list[NDArray[np.float32]] = []
        board.draw(cases[start : start + board.rows], _Watcher(yardstick.schedule, notes))
        parts.append(np.stack(notes))
    return np.concatenate(parts, axis=1)


def auc(values: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive has the larger value; 0.5 where one kind is missing."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return 0.5
    ranks = rankdata(values)[positive].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(positive) - count)))
