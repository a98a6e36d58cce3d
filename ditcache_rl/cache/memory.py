"""What a user lets a cache take: checked when it is said, and again on the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ditcache_rl.cache.caps import Caps
from ditcache_rl.cache.codec import find_codec
from ditcache_rl.cache.folder import open_folder
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.config import memory_bytes, parse_bytes
from ditcache_rl.errors import ConfigError, as_written

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Most memory that a cache may take, per tier, and the format of what is kept there.

    ::

        Memory()                                # the device tier alone, without limit
        Memory(device="70%")                    # at most 70 % of all device memory
        Memory(device="2GiB", host="4GiB")      # what has no room there goes to main memory
        Memory(disk="16GiB", dir="~/.cache/x")  # or to disk, where nothing is left behind
        Memory(host="4GiB", storage="fp8")      # more entries in these bytes, less precise ones
        Memory(device="2GiB", per_request="1GiB")  # a third request at a time computes everything

    A size is a number of bytes, text as "512MiB", or a share of all that there is as "70%". What is
    free now, and later, limits it further.

    Attributes:
        device: Cap of the device tier; None for no limit.
        host: Size of the host tier, which is taken at once; None for none.
        disk: Size of the disk tier, likewise, of the disk that `dir` lies on; None for none.
        dir: Directory of the disk tier: this user's, and writable by nobody else. It is made if it
            is not there.
        storage: Format in host and disk tier: "none" keeps every bit; "bf16", "fp8" and "int8" take
            fewer bytes and lose precision.
        per_request: Most bytes that one request may keep. Under a cap, requests beyond those that
            fit compute everything. None for no limit.

    Raises:
        ConfigError: If a size cannot be read or is not above zero, the format is unknown, or `disk`
            and `dir` are not given together.
    """

    device: int | str | None = None
    host: int | str | None = None
    disk: int | str | None = None
    dir: str | Path | None = None
    storage: str = "none"
    per_request: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("device", "host", "disk", "per_request"):
            self._bytes(name, memory_bytes(_CPU))
        if (self.disk is None) != (self.dir is None):
            raise ConfigError(
                "expected Memory(disk=..., dir=...) together, received "
                f"{as_written({'disk': self.disk, 'dir': self.dir})} alone"
            )
        if not isinstance(self.dir, str | Path | None):
            raise ConfigError(f"Memory(dir=...) must be a path, received {self.dir!r}")
        find_codec(self.storage)

    def __repr__(self) -> str:
        said = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        shown = (f"{name}={value!r}" for name, value, default in said if value != default)
        return f"Memory({', '.join(shown)})"

    def caps(self, device: torch.device) -> Caps:
        """Turn sizes into bytes, whether they are free or not.

        Args:
            device: Of the pipeline.

        Raises:
            ConfigError: If a size is above what the machine has, or the directory is not fit.
        """
        folder, disk_bytes = None, None
        if self.dir is not None:
            folder = Path(self.dir).expanduser()
            os.close(open_folder(folder))
            disk_bytes = self._within("disk", SystemIO().total_bytes(folder))
        return Caps(
            self._within("device", memory_bytes(device)),
            self._within("host", memory_bytes(_CPU)),
            disk_bytes,
            folder,
        )

    def request_bytes(self, device: torch.device) -> int | None:
        """Return what a request may keep on a device; None for no limit."""
        return self._bytes("per_request", memory_bytes(device))

    def _bytes(self, name: str, total: int) -> int | None:
        asked: int | str | None = getattr(self, name)
        try:
            return None if asked is None else parse_bytes(asked, total=total)
        except ConfigError as error:
            raise ConfigError(f"Memory({name}=...): {error}") from error

    def _within(self, name: str, total: int) -> int | None:
        nbytes = self._bytes(name, total)
        if nbytes is not None and nbytes > total:
            raise ConfigError(
                f"Memory({name}=...): expected at most the {total} bytes that this machine has, "
                f"received {getattr(self, name)!r}"
            )
        return nbytes
