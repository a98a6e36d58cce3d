"""The schedules that a bandit chooses among, and what is known of each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.special import stdtr  # scipy.stats takes 0.6 s to import

from ditcache_rl.schedules import CostModel, Schedule, ScheduleTable, Scored

#: Schedules per kind: each needs audits of its own, and neighbours differ little.
_MOST_ARMS = 8
#: Audits that the policy's own figures are worth, and a guess where there are none.
_POLICY_AUDITS, _GUESS_AUDITS = 8.0, 2.0
#: Spread in dB where the policy tells none; that of `shapes` is 3 to 6.
_GUESS_SPREAD_DB = 6.0
#: Standard normal quantile of 95 %: a policy's floor is that far below its mean.
_QUANTILE = 1.645
#: What an audit, or a time, keeps of those before: about the last fifty, or ten, count.
_REMEMBER_AUDITS, _REMEMBER_TIMES = 0.98, 0.9


class Arm(NamedTuple):
    """A schedule that may be chosen, and what its policy says of it."""

    schedule: Schedule
    seconds: float
    """By the policy's cost model; a start, until it is measured here."""
    mean_db: float
    spread_db: float
    """Standard deviation over prompts."""
    audits: float
    """How many audits these two figures are worth."""

    @classmethod
    def all_of(cls, table: ScheduleTable, cost: CostModel, *, min_psnr: float) -> list[Self]:
        """List schedules of a table from the fewest computes to the most, without full compute.

        Where the table was never scored, the floor itself is the guess, so nothing is served
        unaudited.
        """
        lines = [one for computes, one in table.items() if computes < cost.site_steps]
        lines = [one for one in lines if math.isfinite(one.psnr_db)] or lines
        arms = []
        for one in _spread_out(lines):
            schedule, mean, floor = one.schedule, one.psnr_db, one.floor_psnr_db
            spread = max((mean - floor) / _QUANTILE, 1.0)  # nan where the floor is
            arms.append(
                cls(
                    schedule,
                    cost.with_computes(schedule.computes),
                    mean if math.isfinite(mean) else min_psnr,
                    spread if math.isfinite(floor) else _GUESS_SPREAD_DB,
                    _POLICY_AUDITS if math.isfinite(floor) else _GUESS_AUDITS,
                )
            )
        return arms


def _spread_out(lines: Sequence[Scored]) -> list[Scored]:
    """Pick schedules whose computes grow in about equal ratios, as times go."""
    if len(lines) <= _MOST_ARMS:
        return list(lines)
    computes = np.array([one.schedule.computes for one in lines])
    wanted = np.geomspace(computes[0], computes[-1], _MOST_ARMS)
    nearest = np.abs(np.log(computes[:, None] / wanted)).argmin(axis=0)
    return [lines[index] for index in np.unique(nearest)]


def digest(arms: Sequence[Arm]) -> str:
    """Name schedules by what they do: records are good for these alone."""
    sums = hashlib.sha256()
    for arm in arms:
        own = arm.schedule.coefficients
        sums.update(arm.schedule.modes.tobytes() + (b"" if own is None else own.tobytes()))
    return sums.hexdigest()[:12]


@dataclass(slots=True)
class ArmRecord:
    """What was seen of an arm on requests of one kind; all sums forget.

    Attributes:
        seconds: Mean time of a request; negative before the first.
        audits: Number of audits.
        mean_db: Of their PSNR.
        squares: Sum of squared deviations from it.
        broken: Audits below the floor.
    """

    seconds: float = -1.0
    audits: float = 0.0
    mean_db: float = 0.0
    squares: float = 0.0
    broken: float = 0.0

    def note_time(self, seconds: float) -> None:
        """Note what a request took."""
        new = self.seconds < 0
        self.seconds = seconds if new else seconds + _REMEMBER_TIMES * (self.seconds - seconds)

    def note_audit(self, psnr: float, floor: float) -> None:
        """Note the PSNR of an audit in dB."""
        self.audits, self.squares = _REMEMBER_AUDITS * self.audits, _REMEMBER_AUDITS * self.squares
        self.broken = _REMEMBER_AUDITS * self.broken + (psnr < floor)
        self.audits += 1
        off = psnr - self.mean_db
        self.mean_db += off / self.audits
        self.squares += off * (psnr - self.mean_db)

    def chance_above(self, floor: float, arm: Arm) -> float:
        """Return the probability that the next request is above the floor.

        The predictive distribution of a normal variable with conjugate normal-inverse-gamma prior.

        Source: Murphy, Conjugate Bayesian analysis of the Gaussian distribution (2007), section 6.
        """
        total = arm.audits + self.audits
        mean = (arm.audits * arm.mean_db + self.audits * self.mean_db) / total
        apart = arm.audits * self.audits / total * (self.mean_db - arm.mean_db) ** 2
        squares = arm.audits * arm.spread_db**2 + self.squares + apart
        scale = math.sqrt(squares / total * (total + 1) / total)
        return float(stdtr(total, (mean - floor) / scale))


class Turn(NamedTuple):
    """What to do with a request."""

    arm: int | None
    """Index of the schedule in service; None for full compute."""
    audited: tuple[int, ...] = ()
    """Schedules to run beside full compute; empty for no audit."""
