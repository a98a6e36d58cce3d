"""The folder of a run: one process at a time works in it, on what it was begun for.

Stages leave a file each, and are skipped where theirs is there. So the folder says in `run.json`
what these files were made for, and nothing else goes on with them.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ditcache_rl._version import __version__
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import read_json, write_json

_LOG = logging.getLogger(__name__)
_ABOUT, _LOCK = "run.json", ".lock"
#: What stages leave; policies, reports and events are called otherwise.
_STAGE_FILES = ("*-*.json", "*-*.jsonl", "*.npz", "*.zip")

T = TypeVar("T")


def describe_run(config: EnvConfig, kind: str, **further: Any) -> dict[str, Any]:
    """Tell what the files of a kind of run depend on, beside the pipeline."""
    prompts = [config.read_prompts(part) for part in ("train", "select")]
    return {
        "kind": kind,
        "version": __version__,
        "env_sha256": config.sha256,
        "prompts_sha256": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        **further,
    }


def check_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder whose files were made for something else; `run.json` may say more.

    Raises:
        ConfigError: Naming the first fact that differs, or if there are files and no `run.json`.
        ArtifactError: If it is damaged.
    """
    file = folder / _ABOUT
    leave = "leave --resume out, or name another folder, to begin a run"
    if not file.exists():
        if stray := sorted(one.name for kind in _STAGE_FILES for one in folder.glob(kind)):
            raise ConfigError(
                f"--resume: {file}: expected what {', '.join(stray)} were made for, found no such "
                f"file; {leave}"
            )
        return
    known = read_kept(file, read_json)
    for name, value in facts.items():
        if known.get(name) != value:
            raise ConfigError(
                f"--resume: {file}: the files of this run were made for {name} "
                f"{known.get(name)!r}, received {value!r}; {leave}"
            )


def keep_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say what the files of a run are made for, in a folder where `check_run` allows it."""
    check_run(folder, facts)
    if not (folder / _ABOUT).exists():
        write_json(folder / _ABOUT, facts)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is missing.

    Raises:
        ConfigError: If another run works in it; the message names its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however
        except BlockingIOError as error:
            lock.seek(0)
            raise ConfigError(
                f"{folder}: expected a folder that no other run works in, received that of "
                f"{lock.read(300) or 'another process'}; wait for it, or begin another run"
            ) from error
        except OSError as error:
            _LOG.warning("%s cannot be locked (%s): start no second run in it", folder, error)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}, {shlex.join(sys.argv)[:200]}")
        lock.flush()
        yield


def read_kept(file: Path, read: Callable[[Path], T]) -> T:
    """Read what a stage has left.

    Raises:
        ArtifactError: If it is damaged or something else; the message says what to do.
    """
    try:
        return read(file)
    except Exception as error:  # whatever a library makes of a damaged file
        raise ArtifactError(
            f"{file}: expected what this run has left there, received {type(error).__name__}: "
            f"{error}; remove the file to have it made again"
        ) from error
