"""Files that are whole: written beside their place and put there at once, read with suspicion.

JSON from strangers is bounded in size, without duplicate keys, infinities or nan.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ditcache_rl.errors import ArtifactError, ConfigError

_MOST_JSON_BYTES = 1 << 18


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write a file to, which then takes the place of another as a whole.

    Whoever reads sees the old file or the new one. After an exception the old one stays; folders
    that are missing are made. What is there and is no file, as `/dev/null`, is written to.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # of a link, what it leads to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of the same suffix, by which libraries choose a format; several processes may write at once.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a path to make a folder at, which then takes the place of another as a whole.

    After an exception inside, the old one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # From here on the new one is complete, and must survive if the old one cannot be removed.
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def check_writable(*paths: Path, folders: bool = False) -> None:
    """Refuse, before any work, what could not be written after it; nothing is made.

    Args:
        *paths: What will be written, with all folders that are missing.
        folders: Whether they are folders.

    Raises:
        ConfigError: If one is of the other kind, or its folder is none or is not writable.
    """
    for path in paths:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there.is_dir() != (folders or there != path) or not os.access(there, os.W_OK):
            raise ConfigError(
                f"expected a {'folder' if folders else 'file'} that can be written, received "
                f"{path}: {there} is {'a folder' if there.is_dir() else 'a file'}"
                f"{'' if os.access(there, os.W_OK) else ' without permission'}; choose another"
            )


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
    """Write what `read_json` reads, in place of a file that is there."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


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
