"""How many bytes each tier may take, from what is really free on this machine.

A share of all memory says nothing once weights and activations lie there, so what a user asks for
is an upper bound. What can only be wrong is an error; what is merely too much is lowered, and said.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from ditcache_rl.cache.folder import is_memory, open_folder
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.config import memory_bytes, parse_bytes
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Tier

#: Share of the free device memory that stays for activations: they come and go every step.
_DEVICE_RESERVE = 0.1
#: Share of the available main memory that the host tier may take; the rest is the pipeline's.
_HOST_SHARE = 0.5
#: Share of a disk, and bytes of it, of which the larger stays free for everybody else.
_DISK_RESERVE, _DISK_RESERVE_BYTES = 0.05, 2 << 30
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


class Caps(NamedTuple):
    """Bytes per tier; None for a tier without limit (device) or that is not there (others)."""

    device_bytes: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    cache_dir: Path | None = None
    notes: tuple[str, ...] = ()
    """What was lowered, and why."""


def available_host_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Return the main memory that this process can still take: the system's, or its container's."""
    rooms = [room for room in (_available(meminfo), _cgroup_room(cgroup)) if room is not None]
    if not rooms:
        return memory_bytes(torch.device("cpu"))
    return max(0, min(rooms))


def free_device_bytes(device: torch.device) -> int:
    """Return what a device has left for the cache; for the CPU that is main memory.

    What torch has reserved from the driver and not given to anybody counts as free.
    """
    if device.type != "cuda":
        return available_host_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int((free + idle) * (1 - _DEVICE_RESERVE))


def room_for(level: Tier, device: torch.device, used_bytes: int) -> int:
    """Return the bytes that a tier in memory can have now, what it uses already included."""
    if level is Tier.DEVICE:
        return used_bytes + free_device_bytes(device)
    return int(_HOST_SHARE * (used_bytes + available_host_bytes()))


def usable_disk_bytes(folder: Path, io: SystemIO) -> int:
    """Return what a disk has left beyond the reserve of everybody else."""
    total = io.total_bytes(folder)
    reserve = max(_DISK_RESERVE_BYTES, int(_DISK_RESERVE * total))
    return max(0, io.free_bytes(folder) - min(reserve, total // 2))


def resolve_caps(
    device: torch.device,
    *,
    device_bytes: int | str | None = None,
    host_bytes: int | str | None = None,
    disk_bytes: int | str | None = None,
    cache_dir: str | Path | None = None,
    io: SystemIO | None = None,
) -> Caps:
    """Turn what a user asks for into caps that hold on this machine.

    Args:
        device: Of the pipeline.
        device_bytes: As `parse_bytes` takes it; None for no limit.
        host_bytes: The same; None for no host tier.
        disk_bytes: The same, of the disk that `cache_dir` lies on; None for no disk tier.
        cache_dir: Where the disk tier lies.
        io: System calls.

    Raises:
        ConfigError: If a size cannot be read, is not above zero or above what the machine has, or
            if the directory is not fit.
    """
    io = io or SystemIO()
    notes: list[str] = []
    caps = Caps()
    if device_bytes is not None:
        asked = _within(device_bytes, memory_bytes(device), "device_bytes")
        caps = caps._replace(
            device_bytes=_lowered(
                asked, room_for(Tier.DEVICE, device, 0), "device", "is free", notes
            )
        )
    if host_bytes is not None:
        asked = _within(host_bytes, memory_bytes(torch.device("cpu")), "host_bytes")
        room = room_for(Tier.HOST, device, 0)
        caps = caps._replace(
            host_bytes=_lowered(asked, room, "host", "is half of what is available", notes)
        )
    if (disk_bytes is None) != (cache_dir is None):
        raise ConfigError(
            "expected disk_bytes and cache_dir together, received "
            f"disk_bytes={disk_bytes!r} and cache_dir={cache_dir!r}"
        )
    if disk_bytes is not None and cache_dir is not None:
        folder = Path(cache_dir).expanduser()
        os.close(open_folder(folder))
        asked = _within(disk_bytes, io.total_bytes(folder), "disk_bytes")
        room, why = usable_disk_bytes(folder, io), "is free beyond the reserve"
        if is_memory(folder):
            notes.append(
                f"cache_dir {folder} lies in main memory (tmpfs): its bytes count as host bytes"
            )
            taken = caps.host_bytes or 0
            memory = max(0, int(_HOST_SHARE * available_host_bytes()) - taken)
            room, why = min(io.free_bytes(folder), memory), "is available as main memory"
        caps = caps._replace(disk_bytes=_lowered(asked, room, "disk", why, notes), cache_dir=folder)
    return caps._replace(notes=tuple(notes))


def _within(asked: int | str, total: int, name: str) -> int:
    try:
        nbytes = parse_bytes(asked, total=total)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if nbytes > total:
        raise ConfigError(
            f"{name}: expected at most the {total} bytes that this machine has, received {asked!r}"
        )
    return nbytes


def _lowered(asked: int, room: int, tier: str, why: str, notes: list[str]) -> int:
    if asked <= room:
        return asked
    notes.append(f"{tier} tier: {asked} bytes asked for, lowered to the {room} that {why}")
    return room


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room(root: Path) -> int | None:
    """Return the least room of this process's cgroup (v2) and those above it."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    except OSError:
        own = ""
    folder = root / own.lstrip("/")
    rooms = []
    for place in (folder, *folder.parents):
        try:
            limit = (place / "memory.max").read_text(encoding="ascii").strip()
            current = int((place / "memory.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            limit, current = "max", 0
        if limit.isdigit():
            rooms.append(int(limit) - current)
        if place == root:
            break
    return min(rooms, default=None)
