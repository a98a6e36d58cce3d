"""Read JSON from strangers: bounded in size, without duplicate keys, infinities or nan."""

from __future__ import annotations

import json
import math
import typing
from pathlib import Path
from typing import Any

from ditcache_rl.errors import ArtifactError

_MOST_JSON_BYTES = 1 << 18


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a file of bounded size.

    Raises:
        ArtifactError: If it is missing or larger.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path}: expected a file, found none") from error
    if size > most_bytes:
        raise ArtifactError(f"{path}: expected at most {most_bytes} bytes, received {size}")
    return path.read_bytes()


def read_json(path: Path, *, most_bytes: int = _MOST_JSON_BYTES) -> dict[str, Any]:
    """Read an object.

    Raises:
        ArtifactError: If it is missing, larger than `most_bytes`, or no such object.
    """
    try:
        value = json.loads(
            read_bytes(path, most_bytes),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a JSON object, received {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, received {value!r:.80}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write what `read_json` reads."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate keys")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"the constant {text}; numbers must be finite ({math.inf!r} is not)")


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a JSON value is of the type of a field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is list:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, args[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
