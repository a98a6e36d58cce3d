"""Record what every request read and wrote, one line of JSON per request.

Lines are only ever added, each by one write. A process that dies while writing leaves a torn last
line, which the next recorder ends and every reader leaves out. When the file is full it becomes
`FILE.1`, and the one before is gone, so that both together stay bounded.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ditcache_rl.config import check_within
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import check_writable, fits, parse_json, read_bytes
from ditcache_rl.instrument import RequestLog
from ditcache_rl.types import Modes

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 64 << 20


class RecordedRequest(NamedTuple):
    """What one request read and wrote."""

    modes: dict[int, Modes]
    """Per branch, (steps, rows, sites) effective modes: `compute` writes an entry, any other read
    one (a hit), -1 is no visit."""
    sigmas: list[float]
    seconds: float
    peak_bytes: int


class Recorder:
    """Appends finished requests to a file.

    ::

        with dc.cached(pipe, policy, record=dc.Recorder("requests.jsonl")): ...

    Args:
        file: Where; made if it is not there, and gone on with if it is.
        most_bytes: Of the file before it is put aside, and of the one that was put aside.

    Raises:
        ConfigError: If the file cannot be written, or the size is none.
    """

    def __init__(self, file: str | Path, *, most_bytes: int = _MOST_BYTES) -> None:
        check_within("most_bytes", most_bytes, 1, whole=True)
        if not isinstance(file, str | Path):
            raise ConfigError(f"expected a file that can be written, received {file!r}")
        self._file, self._most_bytes = Path(file), most_bytes
        check_writable(self._file)
        self._lock = threading.Lock()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab+") as opened:
                if opened.tell():
                    opened.seek(-1, os.SEEK_END)
                    if opened.read(1) != b"\n":  # torn: what was cut short stays a line of its own
                        opened.write(b"\n")
        except OSError as error:
            raise ConfigError(
                f"expected a file that can be written, received {self._file}: {error}"
            ) from error

    def __call__(self, log: RequestLog) -> None:
        """Append a request; a failed write loses the line and never the request."""
        line = {
            "modes": {str(branch): modes.tolist() for branch, modes in log.by_branch.items()},
            "sigmas": [float(sigma) for sigma in log.run.sigmas],
            "target": None if log.target is None else str(log.target),
            "seconds": log.seconds,
            "peak_bytes": log.peak_bytes,
        }
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        with self._lock:
            try:
                if self._file.exists() and self._file.stat().st_size + len(data) > self._most_bytes:
                    self._file.replace(aside(self._file))
                with self._file.open("ab", buffering=0) as opened:
                    before = opened.tell()
                    if opened.write(data) != len(data):  # a full disk takes a part, and is silent
                        opened.truncate(before)
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                _LOG.warning("a request is not recorded: %s", error)


def aside(file: Path) -> Path:
    """Name the file that a full one becomes."""
    return file.with_name(f"{file.name}.1")


def read_requests(
    file: str | Path, *, most_bytes: int = _MOST_BYTES
) -> tuple[list[RecordedRequest], int]:
    """Read what was recorded, oldest first, and count the lines that were left out as damaged.

    Args:
        file: As the `Recorder` was given it.
        most_bytes: Likewise.

    Raises:
        ArtifactError: If there is no file, one is larger or no file, or not one line can be read.
    """
    found, damaged = [], 0
    for part in (aside(Path(file)), Path(file)):
        for line in read_bytes(part, most_bytes).splitlines() if part.exists() else []:
            try:
                found.append(_request(line))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                damaged += 1
    if not found:
        raise ArtifactError(
            f"{file}: expected requests that a Recorder has written, received {damaged} damaged "
            "lines and no other; remove the file and record again"
        )
    return found, damaged


def _request(line: bytes) -> RecordedRequest:
    values = parse_json(line)
    modes = {int(name): np.array(table, dtype=np.int8) for name, table in values["modes"].items()}
    if any(table.ndim != 3 or table.min() < -1 or table.max() > 3 for table in modes.values()):
        raise ValueError("no table of modes")
    if not fits([*values["sigmas"], values["seconds"], values["peak_bytes"]], list[float]):
        raise ValueError("no numbers")
    return RecordedRequest(
        modes,
        [float(s) for s in values["sigmas"]],
        float(values["seconds"]),
        int(values["peak_bytes"]),
    )
