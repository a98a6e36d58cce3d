"""Choose among the schedules of a policy by what audits of real requests say.

Requests are sorted into kinds. For each kind every schedule has a record: times as measured, and
PSNR of requests that were audited, which means run once more with every site computed. In service
is the fastest schedule that keeps the floor with the promised probability; what is not sure enough
is tried only in audits, whose image is the reference, so trying costs time and never quality.
Nothing here runs a pipeline: `adaptive.py` does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr  # scipy.stats takes 0.6 s to import

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import fits, read_json
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.schedules import CostModel, Schedule, ScheduleTable, Scored

_LOG = logging.getLogger(__name__)
_VERSION = 1
#: Schedules per kind: each needs audits of its own, and neighbours differ little.
_MOST_ARMS = 8
#: Kinds that are told apart; each costs audits, and callers choose what makes a kind.
_MOST_KINDS = 64
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


def arms_of(table: ScheduleTable, cost: CostModel, min_psnr: float) -> list[Arm]:
    """List schedules of a table from the fewest computes to the most, without full compute.

    Where the table was never scored, the floor itself is the guess, so nothing is served unaudited.
    """
    lines = [one for computes, one in table.items() if computes < cost.site_steps]
    lines = [one for one in lines if math.isfinite(one.psnr_db)] or lines
    arms = []
    for schedule, mean, _, floor, _ in _spread_out(lines):
        spread = max((mean - floor) / _QUANTILE, 1.0)  # nan where the floor is
        arms.append(
            Arm(
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


@dataclass(slots=True)
class Record:
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


class Bandit:
    """Learns in service which schedule each kind of request gets.

    ::

        bandit = dc.Bandit(min_psnr=35, audit=0.1, state="bandit.json")
        with dc.cached(pipe, policy, adapt=bandit): ...

    Args:
        min_psnr: Floor in dB against full compute; of a batch the worst image counts.
        keep: Share of images that must reach it.
        audit: Share of requests that are audited. Each costs a full run and up to two cached ones.
        state: JSON file that carries what was learned over a restart; None forgets it.
        seed: Of the choice of what is audited.

    Attributes:
        active: False follows the fixed target that was asked for, and audits and learns nothing.
        note: What became of the state file: why it was not used, or "".

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        min_psnr: float,
        keep: float = 0.95,
        audit: float = 0.1,
        state: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, most in (
            ("min_psnr", min_psnr, PSNR_CAP_DB),
            ("keep", keep, 1.0),
            ("audit", audit, 1.0),
        ):
            if not 0 < value <= most or (name == "keep" and value == most):
                raise ConfigError(
                    f"{name} must be in (0, {most:g}{')' if name == 'keep' else ']'}, "
                    f"received {value}"
                )
        self.min_psnr, self.keep, self.audit = float(min_psnr), keep, audit
        self.active, self.note = True, ""
        self._file = None if state is None else Path(state)
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Record]] = {}
        if self._file is not None and self._file.exists():
            self._read(self._file)

    def turn(self, kind: str, arms: Sequence[Arm]) -> Turn:
        """Decide about a request of a kind."""
        with self._lock:
            records = self._of(kind, arms)
            sure = [i for i in range(len(arms)) if self._is_sure(arms[i], records[i])]
            times = [_seconds(arm, record) for arm, record in zip(arms, records, strict=True)]
            served = min(sure, key=lambda i: times[i]) if sure else None
            if self._rng.random() >= self.audit:
                return Turn(served)
            limit = math.inf if served is None else times[served]
            faster = [i for i in range(len(arms)) if times[i] < limit]
            tried = max(faster, key=lambda i: times[i]) if faster else None
            return Turn(served, tuple(i for i in (served, tried) if i is not None))

    def note_time(self, kind: str, arms: Sequence[Arm], arm: int, seconds: float) -> None:
        """Learn what a request took under an arm."""
        with self._lock:
            self._of(kind, arms)[arm].note_time(seconds)

    def note_audit(self, kind: str, arms: Sequence[Arm], arm: int, psnr: float) -> None:
        """Learn the PSNR of a request under an arm, and save it; one that is no number is 0 dB."""
        with self._lock:
            self._of(kind, arms)[arm].note_audit(
                psnr if math.isfinite(psnr) else 0.0, self.min_psnr
            )
            if self._file is not None:
                self._write(self._file)

    def summary(self) -> list[str]:
        """Describe what is known, one line per kind of request."""
        with self._lock:
            return [
                f"{kind.rpartition(' #')[0]}: "
                + ", ".join(
                    f"{name} computes {record.mean_db:.1f} dB ({record.audits:.0f} audits)"
                    for name, record in records.items()
                    if record.audits
                )
                for kind, records in self._records.items()
            ]

    def _is_sure(self, arm: Arm, record: Record) -> bool:
        # PSNR leans to the left, which no normal distribution does: broken floors count themselves.
        spared = (1 - self.keep) * max(record.audits, 1 / (1 - self.keep))
        return record.broken <= spared and record.chance_above(self.min_psnr, arm) >= self.keep

    def _of(self, kind: str, arms: Sequence[Arm]) -> list[Record]:
        """Return the records of a kind under just these schedules, an own set for each."""
        key = f"{kind} #{_digest(arms)}"
        if key not in self._records and len(self._records) >= _MOST_KINDS:
            key = f"other #{_digest(arms)}"
        records = self._records.setdefault(key, {})
        return [records.setdefault(str(arm.schedule.computes), Record()) for arm in arms]

    def _write(self, file: Path) -> None:
        """Replace the file as a whole: a reader sees the old state or the new one."""
        state = {
            "version": _VERSION,
            "min_psnr": self.min_psnr,
            "kinds": {
                kind: {name: asdict(record) for name, record in records.items()}
                for kind, records in self._records.items()
            },
        }
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(state, indent=1, allow_nan=False), encoding="utf-8")
            partial.replace(file)
        except OSError as error:  # a request must not fail for it
            _LOG.warning("the bandit's state is not saved: %s", error)

    def _read(self, file: Path) -> None:
        try:
            state = read_json(file, most_bytes=1 << 22)
            if (state.get("version"), state.get("min_psnr")) != (_VERSION, self.min_psnr):
                raise ArtifactError(
                    f"{file}: expected version {_VERSION} and min_psnr {self.min_psnr:g}, received "
                    f"{state.get('version')!r} and {state.get('min_psnr')!r}"
                )
            if not fits(state.get("kinds"), dict[str, dict[str, dict[str, float]]]):
                raise ArtifactError(f"{file}: expected kinds of records of numbers")
            self._records = {
                kind: {name: _record(values, file) for name, values in records.items()}
                for kind, records in state["kinds"].items()
            }
        except ArtifactError as error:
            self.note = f"{error}; the policy's own figures are used instead"
            _LOG.warning("%s", self.note)


def _record(values: dict[str, Any], file: Path) -> Record:
    known = set(Record.__dataclass_fields__)
    if set(values) != known or min(values[n] for n in ("audits", "squares", "broken")) < 0:
        raise ArtifactError(
            f"{file}: expected a record of {sorted(known)}, received {values!r:.80}"
        )
    return Record(**values)


def _seconds(arm: Arm, record: Record) -> float:
    return arm.seconds if record.seconds < 0 else record.seconds


def _digest(arms: Sequence[Arm]) -> str:
    """Name schedules by what they do: records are good for these alone."""
    sums = hashlib.sha256()
    for arm in arms:
        own = arm.schedule.coefficients
        sums.update(arm.schedule.modes.tobytes() + (b"" if own is None else own.tobytes()))
    return sums.hexdigest()[:12]
