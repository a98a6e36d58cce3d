from pathlib import Path

import pytest
import torch

from ditcache_rl.cache import Memory, SystemIO, lower_caps
from ditcache_rl.cache.caps import available_host_bytes, disk_room
from ditcache_rl.cache.folder import file_system, is_memory

CPU = torch.device("cpu")


def machine(folder: Path, *, available_kib: int, limit: str, current: int) -> tuple[Path, Path]:
    """Write what a machine with a container says of its memory."""
    meminfo = folder / "meminfo"
    meminfo.write_text(f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    return meminfo, folder


@pytest.mark.parametrize(
    ("available_kib", "limit", "current", "expected"),
    [(1000, "max", 5, 1024000), (1000, "9000", 5000, 4000), (1, "9000", 5, 1024), (9, "5", 9, 0)],
)
def test_free_memory_is_the_least_of_machine_and_container(
    tmp_path: Path, available_kib: int, limit: str, current: int, expected: int
) -> None:
    meminfo, cgroup = machine(tmp_path, available_kib=available_kib, limit=limit, current=current)

    assert available_host_bytes(meminfo, cgroup) == expected


def test_what_is_too_much_is_lowered_and_said(tmp_path: Path) -> None:
    class NearlyFull(SystemIO):
        def free_bytes(self, folder: Path) -> int:
            return (2 << 30) + (1 << 20)

        def total_bytes(self, folder: Path) -> int:
            return 1 << 35

    asked = Memory(disk="2MiB", dir=tmp_path / "x").caps(CPU)
    caps = lower_caps(asked, CPU, io=NearlyFull())

    assert caps.disk_bytes == 1 << 20
    assert len(caps.notes) == 1
    assert "2097152 bytes asked for, lowered to the 1048576" in caps.notes[0]


def test_a_share_is_of_all_memory_and_limited_by_what_is_free() -> None:
    caps = lower_caps(Memory(device="100%", host="100%").caps(CPU), CPU)

    assert caps.device_bytes is not None
    assert caps.host_bytes is not None
    assert caps.host_bytes <= available_host_bytes()
    assert len(caps.notes) == 2


def test_some_of_a_disk_stays_for_everybody_else(tmp_path: Path) -> None:
    io = SystemIO()

    assert disk_room(tmp_path, io) < io.free_bytes(tmp_path)


def test_a_file_system_in_memory_is_known_as_such(tmp_path: Path) -> None:
    assert file_system(tmp_path)
    assert is_memory(Path("/dev/shm")) is (file_system(Path("/dev/shm")) == "tmpfs")
