import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.cache import Caps, SystemIO, TieredCache, try_tier
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.control import Controller, EveryK, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference.cache import CacheHandle
from ditcache_rl.instrument import BlockRunner, RequestLog, blocks
from ditcache_rl.types import Decision, EntryKey, Mode, Modes, Tier
from tests.kit.pipelines import GUIDANCE, draw, draw_under

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


def draw_in(
    pipe: Any, controller: Controller, cache: TieredCache, **call: Any
) -> tuple[torch.Tensor, RequestLog]:
    """Draw on a given cache: which tiers there are must not depend on how busy the machine is."""
    logs: list[RequestLog] = []
    with BlockRunner(pipe, controller, cache, sites=SITES, on_finish=logs.append):
        latents = draw(pipe, steps=STEPS, **call)
    assert cache.used_bytes == 0
    cache.close()
    return latents, logs[0]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_tiers_below_a_capped_device_change_no_bit_of_the_image(
    tiny_pipe: Any, folder: Path, share: float, seed: int
) -> None:
    controller = StaticSchedule.of(mixed_schedule(seed))
    expected, uncapped = draw_under(tiny_pipe, controller, sites=SITES, steps=STEPS)
    cap = max(ENTRY, int(share * uncapped.peak_bytes))
    cache = TieredCache(cap, int(0.3 * uncapped.peak_bytes), 4 << 20, cache_dir=folder)

    latents, log = draw_in(tiny_pipe, controller, cache)

    assert torch.equal(latents, expected)
    assert np.array_equal(log.modes, uncapped.modes)
    assert cache.stats.peak_device_bytes <= cap
    assert cache.stats.evicted == cache.stats.rejected == 0
    assert list(folder.iterdir()) == []
    if share < 0.5:
        assert cache.stats.host_hits + cache.stats.disk_hits > 0


@pytest.mark.parametrize("failing", ["reads", "corrupt", "small"])
def test_a_request_whose_cache_failed_is_the_replay_of_its_effective_mask(
    tiny_pipe: Any, folder: Path, failing: str
) -> None:
    controller = StaticSchedule.of(mixed_schedule(2))
    if failing == "small":
        cache = TieredCache(3 * ENTRY)
    else:
        cache = TieredCache(ENTRY, None, 4 << 20, cache_dir=folder)

    def spoil(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        disk = cache.slower.get(Tier.DISK)
        if isinstance(disk, DiskTier) and step % 3 == 1:
            if failing == "reads":
                os.ftruncate(disk.fd, 8192)
            else:
                for slot in range(0, 40, 3):
                    os.pwrite(disk.fd, b"spoiled", 4096 * slot)
        return tensors

    latents, log = draw_in(tiny_pipe, controller, cache, callback_on_step_end=spoil)

    assert not np.array_equal(log.modes[:, 0], mixed_schedule(2)), "nothing failed"
    replayed, again = draw_under(tiny_pipe, StaticSchedule.of(log.modes), sites=SITES, steps=STEPS)
    assert torch.equal(latents, replayed)
    assert np.array_equal(again.modes, log.modes)


class Masks:
    """Takes the place of other ranks: says call by call what was effective in another run."""

    def __init__(self, log: RequestLog) -> None:
        self._masks = iter(
            [
                log.by_branch[branch][step, :, site]
                for step in range(STEPS)
                for branch in sorted(log.by_branch)
                for site in range(SITES)
                if log.by_branch[branch][step, 0, site] >= 0
            ]
        )

    def share(self, decision: Decision) -> Decision:
        return decision

    def least(self, modes: Modes) -> Modes:
        return np.asarray(np.minimum(modes, next(self._masks)))


def test_with_two_branches_it_is_the_replay_of_the_mask_of_each(
    tiny_pipe: Any, folder: Path
) -> None:
    controller = StaticSchedule.of(mixed_schedule(3))
    cache = TieredCache(ENTRY, None, 8 << 20, cache_dir=folder)

    def spoil(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        disk = cache.slower[Tier.DISK]
        assert isinstance(disk, DiskTier)
        for key in disk.held()[::2]:
            slot = disk.slot(key)
            if slot is not None and key.branch == step % 2:
                os.pwrite(disk.fd, b"spoiled", slot.offset)
        return tensors

    latents, log = draw_in(tiny_pipe, controller, cache, callback_on_step_end=spoil, **GUIDANCE)

    one, other = log.by_branch.values()
    assert not np.array_equal(one, other), "nothing failed in one branch alone"
    logs: list[RequestLog] = []
    masks: Any = Masks(log)
    with BlockRunner(
        tiny_pipe, controller, TieredCache(), sites=SITES, ranks=masks, on_finish=logs.append
    ):
        replayed = draw(tiny_pipe, steps=STEPS, **GUIDANCE)
    assert torch.equal(latents, replayed)
    for branch, modes in log.by_branch.items():
        assert np.array_equal(logs[0].by_branch[branch], modes)


@pytest.mark.parametrize(("seconds", "pays"), [(1.0, True), (1e-15, False)])
def test_a_tier_pays_if_reading_is_faster_than_computing(
    folder: Path, seconds: float, pays: bool
) -> None:
    cache = TieredCache(None, 1 << 20, 1 << 20, cache_dir=folder)
    for level in list(cache.slower):
        verdict = try_tier(cache, level, compute_s_per_byte=seconds, device=torch.device("cpu"))
        assert verdict.pays is pays
        cache.retire(level)

    assert cache.put(EntryKey(0, 0, 0, 0), torch.ones(3), Tier.DISK)
    assert len(cache.device) == 1
    cache.close()


def test_a_disk_that_cannot_be_written_out_sleeps_and_says_why(folder: Path) -> None:
    class Unsynced(SystemIO):
        def make_cold(self, fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    cache = TieredCache(None, None, 1 << 20, cache_dir=folder, io=Unsynced())

    verdict = try_tier(cache, Tier.DISK, compute_s_per_byte=1.0, device=torch.device("cpu"))

    assert not verdict.pays
    assert "Input/output error" in verdict.reason
    assert cache.used_bytes == 0
    cache.close()


def test_what_a_static_schedule_never_reads_is_not_written(tiny_pipe: Any) -> None:
    modes = np.zeros((STEPS, 1), dtype=np.int8)
    modes[5] = Mode.REUSE

    with dc.cached(tiny_pipe, StaticSchedule.of(modes)) as run:
        draw(tiny_pipe, steps=STEPS)

    assert run.cache.stats.puts == 1
    assert run.cache.stats.dead_writes == STEPS - 2
    assert run.logs[0].peak_bytes == ENTRY


def test_tiers_are_tried_where_only_a_forward_pass_tells_the_blocks(
    tiny_pipe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "STACK_NAMES", ())
    expected, _ = draw_under(tiny_pipe, EveryK(2))

    memory = dc.Memory(host="1MiB", disk="1MiB", dir=folder)
    with dc.cached(tiny_pipe, EveryK(2), memory=memory) as run:
        latents = draw(tiny_pipe)

    assert torch.equal(latents, expected)
    assert (run.logs[0].modes == Mode.REUSE).any()


def test_only_what_a_mode_needs_is_fetched_and_once(tiny_pipe: Any) -> None:
    modes = np.array([[0], [0], [0], [1], [2], [3], [0], [0]], dtype=np.int8)

    with dc.cached(tiny_pipe, StaticSchedule.of(modes)) as run:
        draw(tiny_pipe, steps=len(modes))

    assert run.cache.stats.hits == 1 + 2 + 3
    assert run.cache.stats.misses == 0


def test_the_summary_names_tiers_and_what_was_lowered(tiny_pipe: Any, folder: Path) -> None:
    memory = dc.Memory(device="1MiB", host="1.5 mb", disk="8MiB", dir=str(folder))
    with dc.cached(tiny_pipe, EveryK(2), memory=memory) as run:
        draw(tiny_pipe)
        text = run.summary()

    assert "host tier" in text  # in use or asleep, as this machine has it
    assert "disk tier" in text
    assert "last modes    CRCRCR" in text


def test_a_cap_that_cannot_be_followed_spoils_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TieredCache(None, 1 << 20)
    handle = CacheHandle(cache, Caps(host_bytes=1 << 46), torch.device("cpu"))
    monkeypatch.setattr("ditcache_rl.inference.cache.lower_caps", lambda asked, *_, **__: asked)

    handle.refresh()  # more than any machine can map

    assert cache.slower[Tier.HOST].cap_bytes == 1 << 20
    cache.close()


def test_the_disk_tier_gives_way_when_others_fill_the_disk_and_comes_back(folder: Path) -> None:
    total, beyond_reserve = 1 << 40, 1 << 20

    class Shared(SystemIO):
        taken_bytes = others_bytes = 0

        def total_bytes(self, folder: Path) -> int:
            return total

        def free_bytes(self, folder: Path) -> int:
            return total // 20 + beyond_reserve - self.taken_bytes - self.others_bytes

        def allocate(self, fd: int, nbytes: int) -> None:
            super().allocate(fd, nbytes)
            self.taken_bytes = nbytes

        def truncate(self, fd: int, nbytes: int) -> None:
            super().truncate(fd, nbytes)
            self.taken_bytes = nbytes

    io = Shared()
    cache = TieredCache(None, None, 1 << 20, cache_dir=folder, io=io)
    asked = Caps(disk_bytes=1 << 20, cache_dir=folder)
    handle = CacheHandle(cache, asked, torch.device("cpu"))
    for others_bytes, expected in ((0, 1 << 20), (3 << 18, 1 << 18), (2 << 20, 0), (0, 1 << 20)):
        io.others_bytes = others_bytes

        handle.refresh()

        assert cache.slower[Tier.DISK].cap_bytes == expected
    cache.close()


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
    memory = dc.Memory(disk="1MiB", dir=bad_folders[kind])
    with pytest.raises(ConfigError, match=r".*: expected a cache directory of this user"):
        dc.attach(tiny_pipe, EveryK(2), memory=memory)

    draw(tiny_pipe)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_a_directory_in_memory_is_said_and_counted_as_memory(tiny_pipe: Any) -> None:
    folder = Path("/dev/shm") / f"ditcache-test-{os.getpid()}"
    try:
        with dc.cached(tiny_pipe, EveryK(2), memory=dc.Memory(disk="1MiB", dir=folder)) as run:
            draw(tiny_pipe)
            assert "lies in main memory (tmpfs)" in run.summary()
    finally:
        folder.rmdir()
