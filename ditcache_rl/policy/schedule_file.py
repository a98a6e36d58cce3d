"""Read, check and write schedule files: what a search found, to be run in place of a policy.

A schedule file is one JSON object. Like a policy it names the model that it was searched on, holds
nothing but data, and carries a digest that catches accidents, not attackers.
"""

from __future__ import annotations

import hashlib
import json
import math
import typing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ditcache_rl.errors import ArtifactError, ConfigError, closest
from ditcache_rl.files import fits, read_json, write_json
from ditcache_rl.schedules import Leveled
from ditcache_rl.schedules.carry import check_sigmas
from ditcache_rl.schedules.patterns import step_patterns
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.types import HISTORY, Floats, Mode, Modes

SCHEMA_VERSION = 3
_MOST_BYTES = 1 << 22
_LETTERS = {Mode.COMPUTE: "C", Mode.REUSE: "R", Mode.FORECAST1: "1", Mode.FORECAST2: "2"}
_MODES = {letter: mode for mode, letter in _LETTERS.items()}
_BETWEEN_SITES = " | "


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that was searched.

    Attributes:
        method: Name of the search.
        steps: Denoising steps.
        modes: A letter per step, sites side by side, as `modes_text` writes them.
        psnr_db: Mean on the search prompts.
        ssim: Mean on the search prompts.
        weights: Per step, the fitted weights of its estimate, newest residual first; an empty list
            at steps that have none.
    """

    method: str
    steps: int
    modes: str
    psnr_db: float
    ssim: float
    weights: list[list[float]]

    @property
    def table(self) -> Modes:
        """(steps, sites) modes."""
        return read_modes(self.modes)

    @property
    def fitted(self) -> Floats | None:
        """(steps, HISTORY) fitted weights, nan at steps without; None if no step has any."""
        if not any(self.weights):
            return None
        return np.array([row or [np.nan] * HISTORY for row in self.weights])


@dataclass(frozen=True, slots=True)
class ScheduleFile:
    """What a search found, and for what.

    Attributes:
        env_id: Id of the environment.
        env_sha256: Digest of its file.
        sites: Parts of the block stack.
        blocks: Where the blocks are, as in an environment file.
        model: Class, digest of the config and fingerprint of the weights of the transformer.
        scheduler: Class and digest of the config.
        call: Arguments that the pipeline was called with.
        sigmas: Per step count, the noise levels, (steps + 1,).
        profile: The cost model of the machine that searched, at the first step count.
        reward: Weights of PSNR and SSIM.
        prompts: Train prompts that were searched on.
        evaluations: Candidates per budget and method.
        seed: Of the search.
        command: Command line of the search.
        machine: Where it ran.
        versions: Of the packages.
        schedules: What was found.
        sha256: Digest of everything else.
        schema_version: Of this format.
    """

    env_id: str
    env_sha256: str
    sites: int
    blocks: str
    model: dict[str, str]
    scheduler: dict[str, str]
    call: dict[str, Any]
    sigmas: dict[str, list[float]]
    profile: dict[str, float]
    reward: dict[str, float]
    prompts: int
    evaluations: int
    seed: int
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    schedules: list[Schedule]
    sha256: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def steps(self) -> list[int]:
        """Step counts that have schedules, in the order of the file."""
        return list(dict.fromkeys(schedule.steps for schedule in self.schedules))

    @property
    def methods(self) -> list[str]:
        """Names of the searches, in the order of the file."""
        return list(dict.fromkeys(schedule.method for schedule in self.schedules))

    def plan(self, steps: int, *, method: str | None = None) -> Plan:
        """Return the best schedule of every number of site computes.

        Args:
            steps: Denoising steps.
            method: Only what this search found; by default whatever scored best.

        Raises:
            ConfigError: If there is none.
        """
        patterns = step_patterns(self.sites)
        size = steps * self.sites + 1
        plan = Plan.empty(size - 1, steps)
        found = self._found(steps, method)
        if not found:
            raise ConfigError(
                f"expected num_inference_steps among {self.steps} and a method among "
                f"{', '.join(self.methods)} as in the schedule file, received {steps} and "
                f"{method or 'any'}"
            )
        for schedule in sorted(found, key=self._value):  # the best of equal cost comes last
            row = _pattern_row(schedule.table, patterns)
            assert row is not None, "checked on reading"
            spent = int((schedule.table == Mode.COMPUTE).sum())
            plan.patterns[spent] = row
            plan.quality[spent] = schedule.psnr_db, schedule.ssim
            if schedule.fitted is not None:
                plan.weights[spent] = schedule.fitted
        return plan

    def leveled(self, *, method: str | None = None) -> list[Leveled]:
        """Return the plans that `plan` does, with the noise levels that they were made for.

        Raises:
            ConfigError: If there is none.
        """
        known = [count for count in self.steps if self._found(count, method)]
        return [
            Leveled(self.plan(count, method=method), np.array(self.sigmas[str(count)]))
            for count in known or self.steps[:1]  # where `plan` says what is lacking
        ]

    def _found(self, steps: int, method: str | None) -> list[Schedule]:
        return [s for s in self.schedules if s.steps == steps and method in (None, s.method)]

    def _value(self, schedule: Schedule) -> float:
        weights = self.reward
        return weights["psnr"] * schedule.psnr_db / 10 + weights["ssim"] * schedule.ssim


def save_schedules(file: ScheduleFile, path: Path) -> None:
    """Write a schedule file, replacing one that is there."""
    raw = asdict(file)
    write_json(path, raw | {"sha256": _digest(raw)})


def load_schedules(path: Path) -> ScheduleFile:
    """Open a schedule file.

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
    entries = raw.get("schedules")
    if not isinstance(entries, list) or not entries:
        raise ArtifactError(f"{path}: schedules must be a list with entries, received {entries!r}")
    found = [
        _read_fields(Schedule, entry, f"{path}: schedules[{i}]") for i, entry in enumerate(entries)
    ]
    file = _read_fields(ScheduleFile, raw | {"schedules": found}, str(path))
    if not 1 <= file.sites <= 256:
        raise ArtifactError(f"{path}: sites must lie in [1, 256], received {file.sites}")
    if set(file.reward) != {"psnr", "ssim"}:
        raise ArtifactError(f"{path}: reward must have psnr and ssim, received {file.reward}")
    patterns = step_patterns(file.sites)
    taken: set[tuple[str, int, int]] = set()
    for index, schedule in enumerate(found):
        _check(schedule, patterns, f"{path}: schedules[{index}]")
        name = (schedule.method, schedule.steps, int((schedule.table == Mode.COMPUTE).sum()))
        if name in taken:
            raise ArtifactError(
                f"{path}: schedules[{index}]: expected one schedule per method, steps and site "
                f"computes, received a second one of {name}"
            )
        taken.add(name)
    check_sigmas(file.sigmas, file.steps, str(path))
    return file


def modes_text(modes: Modes) -> str:
    """Write (steps, sites) modes: a letter per step, sites side by side; a dot for none."""
    columns = ("".join(_LETTERS.get(int(m), ".") for m in column) for column in modes.T)  # type: ignore[call-overload]
    return _BETWEEN_SITES.join(columns)


def weights_lists(weights: Floats) -> list[list[float]]:
    """Write fitted weights as a schedule holds them; (steps, HISTORY), nan where there are none."""
    return [[round(w, 7) for w in row] if np.isfinite(row[0]) else [] for row in weights.tolist()]


def read_modes(text: str) -> Modes:
    """Invert `modes_text`.

    Raises:
        ArtifactError: If sites differ in length or a letter is none of a mode's.
    """
    columns = text.split(_BETWEEN_SITES)
    if len({len(column) for column in columns}) != 1 or not set("".join(columns)) <= set(_MODES):
        raise ArtifactError(
            f"expected a letter of {''.join(_MODES)} per step and as many for every site, "
            f"received {text!r:.80}"
        )
    return np.array([[_MODES[letter] for letter in c] for c in columns], dtype=np.int8).T


def _pattern_row(modes: Modes, patterns: Modes) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Return the pattern of every step: (steps,); None if a step has none."""
    same = (modes[:, None] == patterns[None]).all(axis=2)
    return np.asarray(same.argmax(axis=1), dtype=np.int64) if same.any(axis=1).all() else None


def _check(schedule: Schedule, patterns: Modes, where: str) -> None:
    """Check that a schedule can be run."""
    try:
        modes = schedule.table
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error
    expected = (schedule.steps, patterns.shape[1])
    if modes.shape != expected or not modes.size or modes[0].any():
        raise ArtifactError(
            f"{where}: expected {expected[0]} steps of {expected[1]} sites, the first computed, "
            f"received {schedule.modes!r:.80}"
        )
    if _pattern_row(modes, patterns) is None:
        raise ArtifactError(
            f"{where}: every step must be one of the step patterns, received {schedule.modes!r:.80}"
        )
    if any(schedule.weights) and patterns.shape[1] != 1:
        raise ArtifactError(
            f"{where}: weights belong to schedules of one site, received some for "
            f"{patterns.shape[1]}"
        )
    lengths = {len(row) for row in schedule.weights}
    if len(schedule.weights) != schedule.steps or not lengths <= {0, HISTORY}:
        raise ArtifactError(
            f"{where}: weights must be a list per step, of {HISTORY} numbers or none, received "
            f"{schedule.weights!r:.80}"
        )
    if not (math.isfinite(schedule.psnr_db) and math.isfinite(schedule.ssim)):
        raise ArtifactError(f"{where}: scores must be finite")


_T = typing.TypeVar("_T", Schedule, ScheduleFile)


def _read_fields(kind: type[_T], raw: Any, where: str) -> _T:
    """Make a dataclass of an object that has exactly its fields."""
    if not isinstance(raw, dict):
        raise ArtifactError(f"{where}: expected an object, received {raw!r:.80}")
    known = {field.name: field.type for field in fields(kind)}
    for name in raw.keys() - known.keys():
        raise ArtifactError(f"{where}: unknown field {name!r}.{closest(name, known)}")
    for name in known.keys() - raw.keys():
        raise ArtifactError(f"{where}: expected a field {name!r}, received none")
    for name, hint in typing.get_type_hints(kind).items():
        if not fits(raw[name], hint):
            raise ArtifactError(
                f"{where}: {name} must be {known[name]}, received {raw[name]!r:.80}"
            )
    return kind(**raw)


def _digest(raw: dict[str, Any]) -> str:
    """Digest everything but the digest."""
    rest = {name: value for name, value in raw.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
