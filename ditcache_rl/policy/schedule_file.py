"""Read, check and write schedule files: policies without a network, one for each search.

A schedule file is one JSON object. Like a policy folder it names the model that it was searched on,
holds nothing but data, and carries a digest that catches accidents, not attackers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import read_json, write_json
from ditcache_rl.policy.manifest import Manifest, read_fields, read_manifest
from ditcache_rl.policy.policy import Policy
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored
from ditcache_rl.schedules.schedule import tiers_from_text, tiers_text
from ditcache_rl.schedules.table import check_levels
from ditcache_rl.types import HISTORY, MOST_STEPS

SCHEMA_VERSION = 5
_MOST_BYTES = 1 << 22
#: Absolute value of a coefficient; those of fits are below a thousand.
_MOST_COEFFICIENT = 1e6


@dataclass(frozen=True, slots=True)
class _Entry:
    """A schedule as the file holds it.

    Attributes:
        method: Name of the search.
        steps: Denoising steps.
        modes: A letter per step, sites side by side, as `Schedule.text` writes them.
        psnr_db: Mean on the search prompts.
        ssim: Mean on the search prompts.
        coefficients: Per step, those of its estimate, newest residual first; an empty list at
            steps that have none.
        tiers: Where what is computed is kept, written alike by `tiers_text`; "" where the cache
            decides.
    """

    method: str
    steps: int
    modes: str
    psnr_db: float
    ssim: float
    coefficients: list[list[float]]
    tiers: str

    def read(self, where: str, sites: int) -> Scored:
        """Return the schedule.

        Raises:
            ArtifactError: If it can't be run.
        """
        if not 1 <= self.steps <= MOST_STEPS:
            raise ArtifactError(
                f"{where}: steps must be an integer in [1, {MOST_STEPS}], received {self.steps}"
            )
        lengths = {len(own) for own in self.coefficients}
        if len(self.coefficients) != self.steps or not lengths <= {0, HISTORY}:
            raise ArtifactError(
                f"{where}: coefficients must be a list per step, of {HISTORY} numbers or none, "
                f"received {self.coefficients!r:.80}"
            )
        if any(abs(x) > _MOST_COEFFICIENT for own in self.coefficients for x in own):
            raise ArtifactError(f"{where}: coefficients must be within {_MOST_COEFFICIENT:g}")
        table = np.array([own or [np.nan] * HISTORY for own in self.coefficients])
        try:
            bare = Schedule.from_text(self.modes, table if any(self.coefficients) else None)
            schedule = replace(bare, tiers=tiers_from_text(self.tiers)) if self.tiers else bare
        except ConfigError as error:
            raise ArtifactError(f"{where}: {error}") from error
        if schedule.modes.shape != (self.steps, sites):
            raise ArtifactError(
                f"{where}: expected {self.steps} steps of {sites} sites, received "
                f"{self.modes!r:.80}"
            )
        return Scored(schedule, self.psnr_db, self.ssim)


def save_schedules(found: Mapping[str, Policy], path: Path) -> None:
    """Write a schedule file, replacing one that is there.

    Args:
        found: Policies for the same thing, by the name of the search that found them; every
            schedule is scored.
        path: Of the file.
    """
    policies = list(found.values())
    entries = [
        _Entry(
            method,
            steps,
            scored.schedule.text,
            scored.psnr_db,
            scored.ssim,
            _lists(scored.schedule),
            "" if scored.schedule.tiers is None else tiers_text(scored.schedule.tiers),
        )
        for method, policy in found.items()
        for steps, table in policy.tables.items()
        for scored in table.values()
    ]
    sigmas = {str(n): t.sigmas.tolist() for policy in policies for n, t in policy.tables.items()}
    raw = asdict(policies[0].manifest) | {
        "sigmas": sigmas,
        "schedules": [asdict(entry) for entry in entries],
        "schema_version": SCHEMA_VERSION,
    }
    write_json(path, raw | {"sha256": _digest(raw)})


def load_schedules(path: Path) -> dict[str, Policy]:
    """Open a schedule file: what each search found, by its name.

    Raises:
        ArtifactError: If it is missing, altered, too large, of another version, or holds what it
            should not; the message names file and field.
    """
    raw = read_json(path, most_bytes=_MOST_BYTES)
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, received "
            f"{raw.get('schema_version')!r}; search again with this version"
        )
    if raw.get("sha256") != _digest(raw):
        raise ArtifactError(
            f"{path}: expected sha256 {_digest(raw)}, received {raw.get('sha256')!r}; the file was "
            "altered, search again"
        )
    listed, levels = raw.pop("schedules", None), raw.pop("sigmas", None)
    if not isinstance(listed, list) or not listed:
        raise ArtifactError(f"{path}: schedules must be a list with entries, received {listed!r}")
    del raw["sha256"], raw["schema_version"]
    manifest = read_manifest(raw, str(path))
    tables: dict[str, dict[int, list[Scored]]] = {}
    for index, one in enumerate(listed):
        where = f"{path}: schedules[{index}]"
        entry = read_fields(_Entry, one, where)
        scored = entry.read(where, manifest.sites)
        beside = tables.setdefault(entry.method, {}).setdefault(entry.steps, [])
        if scored.schedule.computes in {other.schedule.computes for other in beside}:
            raise ArtifactError(
                f"{where}: expected one schedule per method, steps and site computes, received a "
                f"second one of {(entry.method, entry.steps, scored.schedule.computes)}"
            )
        beside.append(scored)
    return {
        method: _policy(manifest, by_steps, levels, str(path))
        for method, by_steps in tables.items()
    }


def _policy(
    manifest: Manifest, by_steps: Mapping[int, list[Scored]], levels: Any, where: str
) -> Policy:
    found = {}
    for steps, scored in by_steps.items():
        sigmas = levels.get(str(steps), ()) if isinstance(levels, dict) else ()
        numbers = isinstance(sigmas, list) and all(isinstance(x, int | float) for x in sigmas)
        if not numbers or len(sigmas) != steps + 1:
            raise ArtifactError(
                f"{where}: sigmas must have {steps + 1} numbers for {steps} steps, received "
                f"{len(sigmas) if numbers else sigmas!r:.80}"
            )
        try:
            found[steps] = ScheduleTable.of(np.array(sigmas, dtype=np.float64), scored)
            check_levels(found[steps].sigmas)
        except ConfigError as error:
            raise ArtifactError(f"{where}: {error}") from error
    manifest.check_profile(next(iter(found)), where)
    return Policy(manifest, found)


def _lists(schedule: Schedule) -> list[list[float]]:
    """Write coefficients as a file holds them."""
    if schedule.coefficients is None:
        return [[]] * schedule.steps
    own = schedule.coefficients.tolist()
    return [[round(x, 7) for x in one] if math.isfinite(one[0]) else [] for one in own]


def _digest(raw: dict[str, Any]) -> str:
    """Digest everything but the digest."""
    rest = {name: value for name, value in raw.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
