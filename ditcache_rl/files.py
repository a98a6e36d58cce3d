"""Files that are whole: written beside their place and put there at once, read with suspicion.

Whatever comes from outside is a regular file of bounded size; JSON is bounded in depth and keys
too, without duplicate keys, and its numbers are finite and of sane size. Nothing here may wait for
a pipe, or allocate by what a file says of itself.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ditcache_rl.errors import ArtifactError, ConfigError

_MOST_JSON_BYTES, _PART_BYTES = 1 << 18, 1 << 18
#: Of values in each other, of keys beside each other, and of a number, whose square is finite: what
#: the package writes has 8, a few hundred, and bytes of memory or seeds.
_MOST_DEPTH, _MOST_KEYS, _MOST_NUMBER = 32, 1 << 14, 1 << 64
#: Counted before a text is read, as an empty list of 3 bytes takes 64 of memory. A schedule file of
#: a megabyte has ten thousand lists and sixty thousand numbers.
_MOST_LISTS, _MOST_VALUES = 1 << 16, 1 << 18
#: Numbers of a tensor that are looked at together.
_PART = 1 << 16


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


def is_there(path: Path, *, folder: bool = False) -> bool:
    """Tell whether there is a file, or a folder; at a name that none can have there is none."""
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:  # too long, or on a disk that does not answer
        return False


def check_writable(*paths: Path, folders: bool = False) -> None:
    """Refuse, before any work, what could not be written after it; nothing is made.

    Args:
        *paths: What will be written, with all folders that are missing.
        folders: Whether they are folders.

    Raises:
        ConfigError: If one is of the other kind, or its folder is none or is not writable.
    """
    for path in paths:
        expected = f"expected a {'folder' if folders else 'file'} that can be written, received"
        try:
            there = next(place for place in (path, *path.absolute().parents) if _exists(place))
        except (OSError, ValueError) as error:  # a name that nothing can have
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{expected} {str(path)!r}: {why}; choose another") from error
        if there.is_dir() != (folders or there != path) or not os.access(there, os.W_OK):
            raise ConfigError(
                f"{expected} {path}: {there} is {'a folder' if there.is_dir() else 'a file'}"
                f"{'' if os.access(there, os.W_OK) else ' without permission'}; choose another"
            )


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a regular file of bounded size.

    Raises:
        ArtifactError: If it is missing, of another kind, not to be read, or larger.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ArtifactError(f"{path}: expected a file, received a pipe or device")
            size, parts = os.fstat(file.fileno()).st_size, []
            # Of what grows meanwhile, or says that it is empty, no more is read either; memory is
            # taken for what is there, not for what might be.
            left = 0 if size > most_bytes else most_bytes + 1
            while part := file.read(min(left, max(size + 1, _PART_BYTES))):  # most often one
                parts.append(part)
                left -= len(part)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: expected a file, found none") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{path}: expected a file, received: {why}") from error
    data = b"".join(parts)
    if max(size, len(data)) > most_bytes:
        raise ArtifactError(
            f"{path}: expected at most {most_bytes} bytes, received {max(size, len(data))}"
        )
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that nobody writes to opens at once


def read_text(path: Path, most_bytes: int) -> str:
    """Read a text of bounded size.

    Raises:
        ArtifactError: As `read_bytes`, or if it is not in UTF-8.
    """
    try:
        return read_bytes(path, most_bytes).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: expected text in UTF-8, received {error}") from error


def read_json(path: Path, *, most_bytes: int = _MOST_JSON_BYTES) -> dict[str, Any]:
    """Read an object.

    Raises:
        ArtifactError: If it is missing, larger than `most_bytes`, or no such object.
    """
    try:
        value = parse_json(read_bytes(path, most_bytes))
    except ValueError as error:
        raise ArtifactError(f"{path}: expected a JSON object, received {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, received {value!r:.80}")
    return value


def parse_json(text: str | bytes) -> Any:
    """Read a JSON value of a stranger, whose bytes are UTF-8 and no other encoding.

    Raises:
        ValueError: If it is none, or not one that `check_sane` lets pass.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    lists = data.count(b"[") + data.count(b"{")
    if lists > _MOST_LISTS or data.count(b",") > _MOST_VALUES:
        raise ValueError(
            f"{lists} lists and objects and {data.count(b',')} commas; at most {_MOST_LISTS} and "
            f"{_MOST_VALUES} are read"
        )
    try:
        # Of bytes, json would guess the encoding, and import what reads it.
        known = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(known, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    check_sane(value)
    return value


def check_sane(value: Any) -> None:
    """Refuse nesting and objects without end, and numbers that are not finite or of no sane size.

    Raises:
        ValueError: Saying which.
    """
    _check_sane(value, _MOST_DEPTH)


def _check_sane(value: Any, depth: int) -> None:
    """Check down to a depth; makes no lists of what there is."""
    if depth == 0:
        raise ValueError(f"values in values, more than {_MOST_DEPTH} deep")
    if isinstance(value, int | float):
        if not abs(value) <= _MOST_NUMBER:  # nan is not, either
            shown = value if isinstance(value, float) else f"of {value.bit_length()} bits"
            raise ValueError(f"the number {shown}; they must be finite and up to 2**64")
    elif isinstance(value, dict | list):
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise ValueError(f"{len(value)} keys; at most {_MOST_KEYS} are read")
        for item in value.values() if isinstance(value, dict) else value:
            _check_sane(item, depth - 1)


def parse_tensors(data: bytes, where: str, *, most: float = 1e6) -> dict[str, Any]:
    """Read safetensors, of any names, shapes and types.

    Args:
        data: Of a file of bounded size, which bounds the tensors.
        where: Begins a message.
        most: Largest absolute value; those of weights that work are far below a million.

    Raises:
        ArtifactError: If it is none, or a number is infinite or larger. nan is the caller's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load  # torch takes a second to import

    try:
        tensors = load(data)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(
            f"{where}: expected safetensors, received {str(error)[:200]}; export it again"
        ) from error
    for name, tensor in tensors.items():
        # In parts: a copy of everything, in a wider type, would be several times the file.
        flat = tensor.flatten() if tensor.is_floating_point() else tensor.new_empty(0)
        starts = range(0, flat.numel(), _PART)
        if any((flat[n : n + _PART].float().abs() > most).any() for n in starts):
            raise ArtifactError(
                f"{where}: {name} must be finite and within {most:g}; export it again"
            )
    return dict(tensors)


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


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """Return the types of fields; to resolve them compiles text, which is done once."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


_HINTS: dict[type[Any], dict[str, Any]] = {}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a JSON value is of the type of a field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in args
    if origin is list:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, args[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
