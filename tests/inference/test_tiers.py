import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.control import EveryK, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Mode, Modes, Tier
from tests.pipelines import draw, draw_under

SITES, STEPS = 5, 10
#: Bytes of a residual: 76 tokens of 32 float32 numbers.
ENTRY = 76 * 32 * 4


def mixed_schedule(seed: int = 0) -> Modes:
    """Sites of different rhythms that reuse and forecast up to order 2."""
    rng = np.random.default_rng(seed)
    modes = rng.choice([0, 1, 2, 3], size=(STEPS, SITES), p=[0.4, 0.2, 0.2, 0.2]).astype(np.int8)
    modes[:2] = Mode.COMPUTE
    return modes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_tiers_below_a_capped_device_change_no_bit_of_the_image(
    tiny_pipe: Any, folder: Path, share: float, seed: int
) -> None:
    controller = StaticSchedule(mixed_schedule(seed))
    expected, uncapped = draw_under(tiny_pipe, controller, sites=SITES, steps=STEPS)
    cap = max(ENTRY, int(share * uncapped.peak_bytes))

    with dc.cached(
        tiny_pipe,
        controller,
        sites=SITES,
        device_bytes=cap,
        host_bytes=max(1, int(0.3 * uncapped.peak_bytes)),
        disk_bytes="4MiB",
        cache_dir=folder,
    ) as run:
        latents = draw(tiny_pipe, steps=STEPS)

    assert torch.equal(latents, expected)
    assert np.array_equal(run.logs[0].modes, uncapped.modes)
    assert run.cache.stats.peak_device_bytes <= cap
    assert run.cache.stats.evicted == run.cache.stats.rejected == 0
    assert run.cache.used_bytes == 0
    assert list(folder.iterdir()) == []
    if share < 0.5:
        assert run.cache.stats.host_hits + run.cache.stats.disk_hits > 0


@pytest.mark.parametrize("failing", ["reads", "corrupt", "small"])
def test_a_request_whose_cache_failed_is_the_replay_of_its_effective_mask(
    tiny_pipe: Any, folder: Path, failing: str
) -> None:
    controller = StaticSchedule(mixed_schedule(2))
    cap = 3 * ENTRY if failing == "small" else ENTRY
    with dc.cached(
        tiny_pipe,
        controller,
        sites=SITES,
        device_bytes=cap,
        disk_bytes=None if failing == "small" else "4MiB",
        cache_dir=None if failing == "small" else folder,
    ) as run:
        calls = [0]

        def spoil(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            calls[0] += 1
            disk = run.cache.slower.get(Tier.DISK)
            if disk is not None and step % 3 == 1:
                if failing == "reads":
                    os.ftruncate(disk.fd, 8192)  # type: ignore[attr-defined]
                    os.ftruncate(disk.fd, 4 << 20)  # type: ignore[attr-defined]
                else:
                    os.pwrite(disk.fd, b"spoiled", 4096 * 3)  # type: ignore[attr-defined]
                    os.pwrite(disk.fd, b"spoiled", 4096 * 9)  # type: ignore[attr-defined]
            return tensors

        latents = draw(tiny_pipe, steps=STEPS, callback_on_step_end=spoil)

    effective = run.logs[0].modes
    assert not np.array_equal(effective[:, 0], controller.modes), "nothing failed"
    replayed, log = draw_under(tiny_pipe, StaticSchedule(effective), sites=SITES, steps=STEPS)
    assert torch.equal(latents, replayed)
    assert np.array_equal(log.modes, effective)


def test_what_a_static_schedule_never_reads_is_not_written(tiny_pipe: Any) -> None:
    modes = np.zeros((STEPS, 1), dtype=np.int8)
    modes[5] = Mode.REUSE

    with dc.cached(tiny_pipe, StaticSchedule(modes)) as run:
        draw(tiny_pipe, steps=STEPS)

    assert run.cache.stats.puts == 1
    assert run.cache.stats.dead_writes == STEPS - 2
    assert run.logs[0].peak_bytes == ENTRY


def test_only_what_a_mode_needs_is_fetched_and_once(tiny_pipe: Any) -> None:
    modes = np.array([[0], [0], [0], [1], [2], [3], [0], [0]], dtype=np.int8)

    with dc.cached(tiny_pipe, StaticSchedule(modes)) as run:
        draw(tiny_pipe, steps=len(modes))

    assert run.cache.stats.hits == 1 + 2 + 3
    assert run.cache.stats.misses == 0


def test_the_summary_names_tiers_and_what_was_lowered(tiny_pipe: Any, folder: Path) -> None:
    with dc.cached(
        tiny_pipe,
        EveryK(2),
        device_bytes="1MiB",
        host_bytes="1.5 mb",
        disk_bytes="8MiB",
        cache_dir=str(folder),
    ) as run:
        draw(tiny_pipe)
        text = run.summary()

    assert "host tier" in text
    assert "disk tier" in text
    assert "last mask     CRCRCR" in text


@pytest.fixture
def bad_folders(tmp_path: Path) -> dict[str, Path]:
    """Directories that nobody should write a cache to."""
    places = {name: tmp_path / name for name in ("link", "file", "fifo", "shared", "missing")}
    (tmp_path / "real").mkdir()
    places["link"].symlink_to(tmp_path / "real")
    places["file"].write_text("x")
    os.mkfifo(places["fifo"])
    places["shared"].mkdir()
    places["shared"].chmod(0o777)
    places["missing"] = tmp_path / "not" / "there"
    return places


@pytest.mark.parametrize("kind", ["link", "file", "fifo", "shared", "missing"])
def test_an_unfit_directory_is_refused_when_attaching(
    tiny_pipe: Any, bad_folders: dict[str, Path], kind: str
) -> None:
    with pytest.raises(ConfigError, match=r"cache_dir .*: expected a directory of this user"):
        dc.attach(tiny_pipe, EveryK(2), disk_bytes="1MiB", cache_dir=bad_folders[kind])

    draw(tiny_pipe)


@pytest.mark.parametrize("option", ["device_bytes", "host_bytes", "disk_bytes"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (-1, "above zero"),
        (0, "above zero"),
        ("0%", "above zero"),
        ("-1GiB", "expected bytes as"),
        ("9" * 400 + "gb", "expected bytes as"),
        ("lots", "expected bytes as"),
        ("101%", "more than all of it"),
        ("900TiB", "that this machine has"),
        (1.5, "expected bytes as"),
        (True, "expected bytes as"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused_when_attaching(
    tiny_pipe: Any, folder: Path, option: str, size: Any, message: str
) -> None:
    where: dict[str, Any] = {"cache_dir": folder} if option == "disk_bytes" else {}
    with pytest.raises(ConfigError, match=f"{option}: .*{message}"):
        dc.attach(tiny_pipe, EveryK(2), **{option: size}, **where)


def test_a_disk_tier_needs_size_and_directory(tiny_pipe: Any, folder: Path) -> None:
    alone: list[dict[str, Any]] = [{"disk_bytes": "1MiB"}, {"cache_dir": folder}]
    for options in alone:
        with pytest.raises(ConfigError, match="disk_bytes and cache_dir together"):
            dc.attach(tiny_pipe, EveryK(2), **options)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_a_directory_in_memory_is_said_and_counted_as_memory(tiny_pipe: Any) -> None:
    folder = Path("/dev/shm") / f"ditcache-test-{os.getpid()}"
    try:
        with dc.cached(tiny_pipe, EveryK(2), disk_bytes="1MiB", cache_dir=folder) as run:
            draw(tiny_pipe)
            assert "lies in main memory (tmpfs)" in run.summary()
    finally:
        folder.rmdir()
