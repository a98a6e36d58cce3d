"""How many bytes each tier may take, from what is really free on this machine.

A share of all memory says nothing once weights and activations lie there, so what a user asks for
(`memory.py`) is an upper bound: what is merely too much is lowered, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ditcache_rl.cache.folder import is_memory
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.config import memory_bytes
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

    def of(self, level: Tier) -> int | None:
        """Return the cap of a tier."""
        return (self.device_bytes, self.host_bytes, self.disk_bytes)[level]


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


def disk_room(folder: Path, io: SystemIO, used_bytes: int = 0) -> int:
    """Return the bytes that a disk tier can have beside the reserve of everybody else.

    Args:
        folder: Where it lies.
        io: System calls.
        used_bytes: What it has already.
    """
    total = io.total_bytes(folder)
    reserve = max(_DISK_RESERVE_BYTES, int(_DISK_RESERVE * total))
    return used_bytes + io.free_bytes(folder) - min(reserve, total // 2)


def lower_caps(
    asked: Caps,
    device: torch.device,
    *,
    used: Mapping[Tier, int] | None = None,
    io: SystemIO | None = None,
) -> Caps:
    """Lower caps to what is free on this machine now, and say so in their notes.

    Args:
        asked: Upper bounds.
        device: Of the pipeline.
        used: Bytes that tiers have already, which are free for them.
        io: System calls.
    """
    used = used or {}
    notes: list[str] = []
    device_bytes, host_bytes, disk_bytes, folder, _ = asked
    if device_bytes is not None:
        room = used.get(Tier.DEVICE, 0) + free_device_bytes(device)
        device_bytes = _lowered(device_bytes, room, "device", "is free", notes)
    host_used, disk_used = used.get(Tier.HOST, 0), used.get(Tier.DISK, 0)
    if host_bytes is not None:
        room = int(_HOST_SHARE * (host_used + available_host_bytes()))
        host_bytes = _lowered(host_bytes, room, "host", "is half of what is available", notes)
    if disk_bytes is not None and folder is not None:
        io = io or SystemIO()
        room, why = disk_room(folder, io, disk_used), "is free beyond the reserve"
        if is_memory(folder):
            notes.append(
                f"directory {folder} lies in main memory (tmpfs): its bytes count as host bytes"
            )
            memory = int(_HOST_SHARE * (host_used + disk_used + available_host_bytes()))
            room = min(disk_used + io.free_bytes(folder), memory - (host_bytes or 0))
            why = "is available as main memory"
        disk_bytes = _lowered(disk_bytes, room, "disk", why, notes)
    return Caps(device_bytes, host_bytes, disk_bytes, folder, tuple(notes))


def _lowered(asked: int, room: int, tier: str, why: str, notes: list[str]) -> int:
    room = max(0, room)
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
