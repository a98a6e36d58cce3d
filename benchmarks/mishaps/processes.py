"""Processes that are killed, that share a directory, and that are forked off."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.mishaps.children import Child, private_disk
from benchmarks.mishaps.faults import files_in, free_bytes
from benchmarks.mishaps.machine import Twins
from benchmarks.mishaps.outcome import (
    CRASH,
    HANG,
    KILL_CORRUPT,
    LEAKED,
    MISMATCH,
    Beat,
    CaseOutcome,
    Findings,
    same_bits,
)
from ditcache_rl.cache import Outlook, TieredCache
from ditcache_rl.types import EntryKey, Tier

_MIB = 1 << 20
_SHAPES: tuple[tuple[int, ...], ...] = ((5,), (30, 40), (9000,), (800_000,))
#: Latest moment of a kill after the fork: opening a store and about fifty operations.
_LIFETIME_S = 0.1
_KILLED = -9


def killed(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Kill so many children at random moments.

    What a child reads back before is compared in the child; afterwards the directory is empty and
    the file system, where this process may mount one of its own, as free as before.
    """
    ended = Child(partial(_kill_on_a_disk, amount, folder)).wait(beat)
    if isinstance(ended.result, CaseOutcome):
        return ended.result
    found = Findings()
    found.add(HANG if ended.hung else CRASH, f"the one who kills: {ended.status}")
    return found.outcome()


def _kill_on_a_disk(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    folder.mkdir(exist_ok=True)
    try:
        with private_disk(folder, 64 * _MIB):
            return _kill(amount, folder, beat, own_disk=True)
    except PermissionError as error:
        outcome = _kill(amount, folder, beat, own_disk=False)
        return outcome._replace(details={**outcome.details, "free_bytes_skipped": str(error)})


def _kill(amount: int, folder: Path, beat: Beat, *, own_disk: bool) -> CaseOutcome:
    found, rng = Findings(), random.Random(7)
    free = free_bytes(folder)
    verified = 0
    for index in range(amount):
        told, tell = os.pipe()
        child = Child(partial(_write_and_read_back, folder, index, tell))
        os.close(tell)
        time.sleep(rng.uniform(0, _LIFETIME_S))
        child.kill()
        ended = child.wait()
        found.expect(ended.status == _KILLED, CRASH, f"a child ended by itself: {ended.status}")
        while said := os.read(told, 1 << 16):
            verified += said.count(b".")
            found.add(KILL_CORRUPT, f"read back by child {index}", said.count(b"X"))
        os.close(told)
        left = sorted(path.name for path in folder.iterdir())
        found.expect(not left, LEAKED, f"files left by child {index}: {left}")
        if own_disk:
            lost = free - free_bytes(folder)
            found.expect(not lost, LEAKED, f"bytes left by child {index}: {lost}")
        beat()
    return found.outcome(kills=amount, reads_verified=verified)


def _write_and_read_back(folder: Path, seed: int, tell: int, beat: Beat) -> None:
    """Say `.` for every entry that comes back as it went, `X` for every other one, for ever."""
    found = Findings()
    while True:
        cache = TieredCache(_MIB, None, 16 * _MIB, cache_dir=folder)
        twins = Twins(random.Random(seed), found, KILL_CORRUPT, cache, shapes=_SHAPES)
        for _ in range(40):
            twins.step()
            os.write(tell, b"X" if found.counts[KILL_CORRUPT] else b"." * twins.served)
            twins.served = 0
        twins.end()


def side_by_side(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Let two and then four processes do so many operations each in one directory; kill one."""
    found = Findings()
    for count in (2, 4):
        work = [partial(_operate, amount, folder, seed) for seed in range(count)]
        children = [Child(part) for part in work]
        time.sleep(0.1)
        children[0].kill()
        for index, child in enumerate(children):
            ended = child.wait(beat)
            if index == 0:
                continue
            found.expect(not ended.hung, HANG, f"process {index} of {count}")
            found.expect(not ended.crashed, CRASH, f"process {index} of {count}")
            if ended.result is not None:
                found.add(MISMATCH, f"process {index} of {count}", ended.result.total())
    left = sorted(path.name for path in folder.iterdir())
    found.expect(not left, LEAKED, f"files left: {left}")
    return found.outcome(operations=amount, processes=[2, 4], killed=2)


def _operate(amount: int, folder: Path, seed: int, beat: Beat) -> object:
    found = Findings()
    cache = TieredCache(_MIB, _MIB, 16 * _MIB, cache_dir=folder)
    twins = Twins(random.Random(seed), found, MISMATCH, cache, shapes=_SHAPES)
    for _ in range(amount):
        twins.step()
        beat()
    twins.end()
    return found.counts


def forked(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Fork so many children while threads use the stores, and let the children write.

    A child writes to the stores and to the tensors that it inherited. Its parent's entries stay as
    they are; the child neither waits for locks that nobody holds any more nor keeps the file.
    """
    found = Findings()
    cache = TieredCache(_MIB, 8 * _MIB, 16 * _MIB, cache_dir=folder)
    plain = TieredCache(8 * _MIB)
    keys = [EntryKey(0, 0, site, 0) for site in range(6)]
    for key, tier in zip(keys, [Tier.DEVICE, Tier.HOST, Tier.DISK] * 2, strict=True):
        cache.put(key, _filled(key), tier)
        plain.put(key, _filled(key))
    held = cache.get(keys[1])
    assert held is not None
    with _busy(cache), _busy(plain):
        for index in range(amount):
            child = Child(partial(_misbehave, [cache, plain], keys, held, folder, index))
            ended = child.wait()
            found.expect(not ended.hung, HANG, f"child {index}")
            found.expect(not ended.crashed, CRASH, f"child {index}: {ended.status}")
            if ended.result is not None:
                for figure, note in ended.result:
                    found.add(figure, f"child {index}: {note}")
            beat()
            for store in (cache, plain):
                for key in keys:
                    mine = store.get(key)
                    right = mine is not None and same_bits(mine, _filled(key))
                    found.expect(right, MISMATCH, f"{key} after child {index}")
    cache.close()
    return found.outcome(forks=amount)


def _misbehave(
    stores: list[TieredCache],
    keys: list[EntryKey],
    held: Tensor,
    folder: Path,
    index: int,
    beat: Beat,
) -> list[tuple[str, str]]:
    """Write wherever a child can; return what it found wrong."""
    wrong = []
    if not same_bits(held, _filled(keys[1])):
        wrong.append((MISMATCH, "what it inherited is not what it was"))
    for store in stores:
        for key in keys:
            found = store.get(key)
            if found is not None and not same_bits(found, _filled(key)):
                wrong.append((MISMATCH, f"{key} in the child"))
            store.put(key, torch.full((1000,), -1.0), Tier(index % 3))
        store.prefetch(keys)
        store.discard_request(0)
    held.fill_(-1)
    for fd in files_in(folder):
        wrong.append((LEAKED, f"descriptor {fd} keeps the parent's file"))
    for store in stores:
        store.close()
    return wrong


def _filled(key: EntryKey) -> Tensor:
    return torch.full((1000 + 300_000 * (key.site > 3),), float(1 + key.site))


@contextmanager
def _busy(cache: TieredCache) -> Iterator[None]:
    """Use a store in another thread, so that forks find its locks taken."""
    stop = threading.Event()

    def work() -> None:
        rng, now = random.Random(8), 0
        while not stop.is_set():
            now += 1
            key = EntryKey(1, 0, 0, rng.randrange(4))
            cache.put(key, torch.ones(500), Tier(rng.randrange(3)), Outlook(now, now + 9))
            cache.prefetch([key])
            cache.get(EntryKey(1, 0, 0, rng.randrange(4)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
