"""Compare anything with the best static schedule and the oracle of a table, prompt by prompt.

`Yardstick` is where a learner is measured: hand it PSNR on the held-out prompts at a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from benchmarks._table import STEPS, Table
from ditcache_rl.bench import Board, Case, Quality
from ditcache_rl.control import Controller, StaticSchedule
from ditcache_rl.control.observation import FeatureBuilder, Target, schema
from ditcache_rl.evaluate import Interval, bootstrap_mean
from ditcache_rl.search import tree_index
from ditcache_rl.types import Decision, Floats, Mode, Modes, RunInfo, StepInfo

#: Steps computed that are looked at; from 8 of 12 on nearly every image reaches the cap of PSNR.
BUDGETS = (2, 3, 4, 5, 6, 7)
#: Headroom in dB below which nobody can take a share of it.
LEAST_HEADROOM_DB = 0.05
_RESAMPLES = 9999
#: Decibels by which a prompt's best schedule must beat the static one to count as different.
DIFFERENT_DB = 0.5


def percent(budget: int) -> int:
    """Return a budget as the figures name it."""
    return round(100 * budget / STEPS)


class Share(NamedTuple):
    """A ratio of two means with its 95 % interval."""

    value: float
    low: float
    high: float


class Yardstick:
    """The best static schedule and the oracle of one table at one budget, on held-out prompts.

    Args:
        table: All schedules.
        budget: Steps that compute.
        ends: Whether only schedules that compute the last step count.
    """

    def __init__(self, table: Table, budget: int, *, ends: bool = False) -> None:
        self.table, self.budget = table, budget
        self.index = table.budget(budget, ends=ends)
        means = table.choose.psnr_db[:, self.index].mean(axis=0)
        #: Index of the schedule that is best on the prompts to choose on.
        self.chosen = int(self.index[np.argmax(means)])
        self.chosen_db = float(means.max())
        #: (held-out prompts,) under that schedule, and under each prompt's own best.
        self.static: Floats = table.held_out.psnr_db[:, self.chosen]
        self.oracle: Floats = table.held_out.psnr_db[:, self.index].max(axis=1)

    @property
    def schedule(self) -> Modes:
        """(steps,) modes of the best static schedule."""
        chosen: Modes = self.table.schedules[self.chosen]
        return chosen

    def headroom(self, rng: np.random.Generator) -> Interval:
        """Return what the oracle gains over the static schedule, in dB."""
        return bootstrap_mean(self.oracle - self.static, rng)

    def gain(self, psnr_db: Floats, rng: np.random.Generator) -> Interval:
        """Return what a contender gains over the static schedule, in dB.

        Args:
            psnr_db: (held-out prompts,).
            rng: Resamples.
        """
        return bootstrap_mean(psnr_db - self.static, rng)

    def share(self, psnr_db: Floats, rng: np.random.Generator) -> Share | None:
        """Return how much of the headroom a contender takes, resampled by prompt.

        None where there is hardly any.
        """
        ours, room = psnr_db - self.static, self.oracle - self.static
        if room.mean() < LEAST_HEADROOM_DB:
            return None
        draws = rng.integers(len(room), size=(_RESAMPLES, len(room)))
        ratios = ours[draws].mean(axis=1) / np.maximum(room[draws].mean(axis=1), 1e-3)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return Share(float(ours.mean() / room.mean()), float(low), float(high))


class TableBoard(Board):
    """Scores schedules of a table on the prompts to choose on, without drawing anything."""

    def __init__(self, table: Table, *, rows: int = 32) -> None:
        self.steps, self.sites, self.rows = STEPS, 1, rows
        self._scores = dict(zip(table.choose.cases, table.choose.psnr_db, strict=True))

    def score(
        self,
        cases: Sequence[Case],
        schedules: Sequence[Modes],
        weights: Sequence[Floats] | None = None,
    ) -> Quality:
        """Look PSNR up; the table has no SSIM, and no fitted forecasts."""
        assert weights is None
        index = tree_index(np.stack(schedules)[..., 0])
        found = [self._scores[case][i] for case, i in zip(cases, index, strict=True)]
        return Quality(np.array(found), np.zeros(len(found)))


class Played(NamedTuple):
    """What a controller did on some cases."""

    psnr_db: Floats
    computes: Floats
    """(cases,) steps computed, probe blocks not counted."""


def play(board: Board, controller: Controller, cases: Sequence[Case]) -> Played:
    """Run a controller on cases, and compare the images with the references."""
    psnr, computes = [], []
    for start in range(0, len(cases), board.rows):
        part = cases[start : start + board.rows]
        images, log = board.draw_under(controller, part)
        psnr.append(board.judge(images, part).psnr_db)
        computes.append(log.compute_share * board.steps)
    return Played(np.concatenate(psnr), np.concatenate(computes))


def swept(
    board: Board,
    rule: Callable[[float], Controller],
    thresholds: Sequence[float],
    halves: tuple[Sequence[Case], Sequence[Case]],
    budgets: Sequence[int],
) -> dict[int, tuple[float, Played]]:
    """Choose a rule's threshold for every budget on one half, and play it on the other.

    Args:
        board: Where it plays.
        rule: Makes the controller of a threshold.
        thresholds: To choose from.
        halves: Prompts to choose on, and held-out prompts.
        budgets: Mean steps that may be computed.

    Returns:
        By budget, where one is within it, the threshold with the best mean PSNR and its play.
    """
    choose, held_out = halves
    tried = {threshold: play(board, rule(threshold), choose) for threshold in thresholds}
    found: dict[int, tuple[float, Played]] = {}
    for budget in budgets:
        within = [t for t, played in tried.items() if played.computes.mean() <= budget + 1e-9]
        if within:
            best = max(within, key=lambda t: tried[t].psnr_db.mean())
            found[budget] = best, play(board, rule(best), held_out)
    return found


class _Watcher:
    """Follows a schedule and notes what a learner would observe on the way.

    It does not tell its plan: what is planned is not asked for where there is nothing to decide.
    """

    probe_blocks = 0

    def __init__(self, modes: Modes, budget: int, notes: list[NDArray[np.float32]]) -> None:
        self._schedule = StaticSchedule.of(modes)
        self._budget, self._notes = budget, notes

    def reset(self, run: RunInfo) -> None:
        self._schedule.reset(run)
        self._builder = FeatureBuilder()
        self._builder.reset(run, Target(np.full(run.rows, self._budget), np.zeros(run.rows)))

    def decide(self, info: StepInfo) -> Decision:
        decision = self._schedule.decide(info)
        self._notes.append(self._builder.observe(info, np.zeros((info.run.rows, 0))))
        self._builder.note((decision.modes == Mode.COMPUTE).sum(axis=1))
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
                        _auc(after, gains_too > DIFFERENT_DB),
                    )
                )
    found.sort(key=lambda one: -abs(one.spearman_choose))
    return found[:most]


def _watch(board: Board, yardstick: Yardstick, cases: Sequence[Case]) -> NDArray[np.float32]:
    """Return what is observed along the static schedule: (steps, cases, features)."""
    parts = []
    for start in range(0, len(cases), board.rows):
        notes: list[NDArray[np.float32]] = []
        watcher = _Watcher(yardstick.schedule[:, None], yardstick.budget, notes)
        board.draw_under(watcher, cases[start : start + board.rows])
        parts.append(np.stack(notes))
    return np.concatenate(parts, axis=1)


def _auc(values: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive has the larger value; 0.5 where one kind is missing."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return 0.5
    ranks = rankdata(values)[positive].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(positive) - count)))
