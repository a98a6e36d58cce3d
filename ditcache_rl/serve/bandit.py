"""Choose among the schedules of a policy by what audits of real requests say.

Requests are sorted into kinds. For each kind every schedule has a record: times as measured, and
PSNR of requests that were audited, which means run once more with every site computed. In service
is the fastest schedule that keeps the floor with the promised probability; what is not sure enough
is tried only in audits, whose image is the reference, so trying costs time and never quality.
Nothing here runs a pipeline: `adaptive.py` does.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ditcache_rl.config import check_within
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import check_writable
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy
from ditcache_rl.serve.adaptive import AdaptiveRunner
from ditcache_rl.serve.arms import Arm, ArmRecord, Turn, digest
from ditcache_rl.serve.state import Kinds, read_state, write_state
from ditcache_rl.types import MOST_SEED

_LOG = logging.getLogger(__name__)
#: Kinds that are told apart; each costs audits, and callers choose what makes a kind.
_MOST_KINDS = 64
#: No number of audits makes a schedule sure to keep every image.
_MOST_KEPT = 0.9999


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
        ConfigError: If a number is out of range, or `state` is a folder, pipe or device, or cannot
            be written.
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
        check_within("min_psnr", min_psnr, 0, PSNR_CAP_DB, above=True)
        check_within("keep", keep, 0, _MOST_KEPT, above=True)
        check_within("audit", audit, 0, 1, above=True)
        check_within("seed", seed, 0, MOST_SEED, whole=True)
        self.min_psnr, self.keep, self.audit = float(min_psnr), keep, audit
        self.active, self.note = True, ""
        if not isinstance(state, str | Path | None):
            raise ConfigError(f"state must name a file, received {state!r}")
        self._file = None if state is None else Path(state)
        if self._file is not None:
            check_writable(self._file)
            if self._file.exists() and not self._file.is_file():
                # A pipe would hold up the request that saves.
                raise ConfigError(f"state must name a file, {self._file} is none; choose another")
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._records: Kinds = {}
        if self._file is not None and self._file.exists():
            try:
                self._records = read_state(self._file, min_psnr=self.min_psnr)
            except ArtifactError as error:
                self.note = f"{error}; the policy's own figures are used instead"
                _LOG.warning("%s", self.note)

    def runner(self, policy: Policy) -> Callable[..., AdaptiveRunner]:
        """Return what makes the runner of `cached(pipe, policy, adapt=bandit)`."""
        return partial(AdaptiveRunner, self, policy)

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
                try:
                    write_state(self._file, self._records, min_psnr=self.min_psnr)
                except OSError as error:  # a request must not fail for it
                    _LOG.warning("the bandit's state is not saved: %s", error)

    def summary(self) -> list[str]:
        """Describe what is known, one line per kind of request, and what became of the state."""
        with self._lock:
            kinds = [
                f"{kind.rpartition(' #')[0]}: "
                + ", ".join(
                    f"{name} computes {record.mean_db:.1f} dB ({record.audits:.0f} audits)"
                    for name, record in records.items()
                    if record.audits
                )
                for kind, records in self._records.items()
            ]
        return [self.note, *kinds] if self.note else kinds

    def _is_sure(self, arm: Arm, record: ArmRecord) -> bool:
        # PSNR leans to the left, which no normal distribution does: broken floors count themselves.
        spared = (1 - self.keep) * max(record.audits, 1 / (1 - self.keep))
        return record.broken <= spared and record.chance_above(self.min_psnr, arm) >= self.keep

    def _of(self, kind: str, arms: Sequence[Arm]) -> list[ArmRecord]:
        """Return the records of a kind under just these schedules, an own set for each."""
        key = f"{kind} #{digest(arms)}"
        if key not in self._records and len(self._records) >= _MOST_KINDS:
            key = f"other #{digest(arms)}"
        records = self._records.setdefault(key, {})
        return [records.setdefault(str(arm.schedule.computes), ArmRecord()) for arm in arms]


def _seconds(arm: Arm, record: ArmRecord) -> float:
    return arm.seconds if record.seconds < 0 else record.seconds
