"""The file that carries what a bandit has learned over a restart."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeAlias

from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import fits, read_json, write_json
from ditcache_rl.serve.arms import ArmRecord

_VERSION = 1
_MOST_BYTES = 1 << 22
#: Per kind of request and set of schedules, the records of these by their site computes.
Kinds: TypeAlias = dict[str, dict[str, ArmRecord]]


def write_state(file: Path, kinds: Kinds, *, min_psnr: float) -> None:
    """Replace the file as a whole: a reader sees the old state or the new one.

    Raises:
        OSError: If it cannot be written.
    """
    state = {
        "version": _VERSION,
        "min_psnr": min_psnr,
        "kinds": {
            kind: {name: asdict(record) for name, record in records.items()}
            for kind, records in kinds.items()
        },
    }
    write_json(file, state)


def read_state(file: Path, *, min_psnr: float) -> Kinds:
    """Read what was learned about this floor in dB.

    Raises:
        ArtifactError: If the file is damaged, or made for another floor or version.
    """
    state = read_json(file, most_bytes=_MOST_BYTES)
    if (state.get("version"), state.get("min_psnr")) != (_VERSION, min_psnr):
        raise ArtifactError(
            f"{file}: expected version {_VERSION} and min_psnr {min_psnr:g}, received "
            f"{state.get('version')!r} and {state.get('min_psnr')!r}"
        )
    if not fits(state.get("kinds"), dict[str, dict[str, dict[str, float]]]):
        raise ArtifactError(f"{file}: expected kinds of records of numbers")
    return {
        kind: {name: _read_record(values, file) for name, values in records.items()}
        for kind, records in state["kinds"].items()
    }


def _read_record(values: dict[str, Any], file: Path) -> ArmRecord:
    known = {field.name for field in fields(ArmRecord)}
    if set(values) != known or min(values[n] for n in ("audits", "squares", "broken")) < 0:
        raise ArtifactError(
            f"{file}: expected a record of {sorted(known)}, received {values!r:.80}"
        )
    return ArmRecord(**values)
