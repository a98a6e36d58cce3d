"""The store that the runner talks to: put, get, prefetch and discard over tiers.

A cache may lose anything at any time, so nothing here raises into the model: what fails is a miss,
and the runner computes what it misses. The lock is never held while bytes move.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ditcache_rl.cache.codec import CODECS, LOSSLESS, Codec
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.host import HostTier
from ditcache_rl.cache.integrity import Doubt, NotFiniteError, doubt_of, is_finite
from ditcache_rl.cache.io import SystemIO
from ditcache_rl.cache.ledger import Ledger
from ditcache_rl.cache.load import Load, Loaded
from ditcache_rl.cache.placement import Outlook
from ditcache_rl.cache.slab import Form, Slot
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import DeviceTier, SlotTier
from ditcache_rl.cache.transfer import Copier, copier_for
from ditcache_rl.cache.workers import Workers
from ditcache_rl.errors import CacheCorruptionError
from ditcache_rl.types import EntryKey, Tier

_LOG = logging.getLogger(__name__)
_CPU = torch.device("cpu")
#: Puts for which a disk that has failed is left alone; then it gets another chance.
_REST = 64
#: Shortest wait for a late load: below, a machine's scheduling decides and not its disk.
_PATIENCE_S = 0.1
#: Entries for which the device tier leaves room, so that loads ahead have somewhere to go.
_STAGED = 2


class TieredCache:
    """Keep residuals in tiers, each under its own byte cap.

    A missing entry is never an error: the runner computes what it does not find. Tiers that are not
    there fall back to the fastest one that is. Without `host_bytes` and `disk_bytes` there are no
    threads, no files and no slab, and every call is a dict lookup under a lock.

    Args:
        device_bytes: Cap of the device tier; None for no limit.
        host_bytes: Size of the host tier; None for none.
        disk_bytes: Size of the disk tier; None for none.
        cache_dir: Where the disk tier lies.
        device: Of the tensors.
        codec: Format in the slower tiers.
        compute_s_per_byte: Time to compute an entry; a load that takes longer is given up. None to
            wait for every load.
        io: System calls of the disk tier.
        copier: Copies between device and host.

    Raises:
        ConfigError: If `cache_dir` is not fit.
        OSError: If the disk has no room for the slab.
        MemoryError: If the host has no room for it.

    Notes:
        Safe to share between threads. An entry is at all times in exactly one tier. Tensors are
        given away with `put` and must not be modified after `get`. A child process that is forked
        off finds every store empty, and closed if it had slower tiers: threads and file belong to
        the parent.
    """

    def __init__(
        self,
        device_bytes: int | None = None,
        host_bytes: int | None = None,
        disk_bytes: int | None = None,
        *,
        cache_dir: Path | None = None,
        device: torch.device = _CPU,
        codec: Codec = LOSSLESS,
        compute_s_per_byte: float | None = None,
        io: SystemIO | None = None,
        copier: Copier | None = None,
    ) -> None:
        self.device = DeviceTier(device_bytes)
        #: Host and disk, as far as they are there, the faster one first.
        self.slower: dict[Tier, SlotTier] = {}
        self.stats = CacheStats()
        #: Tier of a site for which a decision names no other than the device; see `graded_tiers`.
        self.grades: Mapping[int, Tier] = {}
        #: Format of what is stored from now on in slower tiers.
        self.codec = codec
        self._compute_s_per_byte = compute_s_per_byte
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._doubts: dict[EntryKey, Doubt] = {}
        self._storing: dict[EntryKey, object] = {}
        self._loads: dict[EntryKey, Load] = {}
        self._left: list[Load] = []
        self._landing: list[Loaded] = []
        self._rest = 0
        self._largest = 0
        self._closed = False
        _STORES.add(self)
        if host_bytes is None and disk_bytes is None:
            return
        self._workers = Workers()
        self._copier = copier or copier_for(device)
        if host_bytes is not None:
            self.slower[Tier.HOST] = HostTier(
                host_bytes, self._copier, pinned=device.type == "cuda"
            )
        if disk_bytes is not None:
            assert cache_dir is not None
            self.slower[Tier.DISK] = DiskTier(
                disk_bytes, cache_dir, io or SystemIO(), self._workers
            )

    @property
    def used_bytes(self) -> int:
        """Bytes held now in all tiers."""
        return self.device.used_bytes + sum(tier.used_bytes for tier in self.slower.values())

    @property
    def looks_ahead(self) -> bool:
        """Whether there is anything that `prefetch` could load."""
        return Tier.DISK in self.slower or (bool(self.slower) and not self._copier.in_place)

    def put(
        self,
        key: EntryKey,
        tensor: Tensor,
        tier: Tier = Tier.DEVICE,
        outlook: Outlook | None = None,
    ) -> bool:
        """Store a tensor; the caller gives it away and must not modify it.

        Args:
            key: Its name; an entry of the same name is replaced.
            tensor: What to keep.
            tier: Where to; without room there in the next slower tier, then in a faster one.
            outlook: What is known of its future; entries that are worth less make room for it.

        Returns:
            False if it was not kept, because the tier is DROP, nothing has room, or it has NaN or
            Inf.
        """
        if tier is Tier.DROP or self._closed:
            return False
        doubt = doubt_of(tensor) if tensor.is_cuda else None
        if self.grades and tier is Tier.DEVICE:
            tier = self.grades.get(key.site, tier)
        try:
            first = tier is Tier.DEVICE  # nothing to choose in the common case
            kept = first and self._put_fast(key, tensor, outlook)
            kept = kept or any(
                self._put_fast(key, tensor, outlook)
                if level is Tier.DEVICE
                else self._put_slow(level, key, tensor, outlook, check=tensor.dtype)
                for level in self._route(tier)[first:]
            )
        except NotFiniteError:
            with self._lock:
                self.stats.not_finite += 1
                self.stats.rejected += 1
            return False
        with self._lock:
            self.stats.puts += kept
            self.stats.rejected += not kept
            if kept and doubt is not None:
                self._doubts[key] = doubt
        return kept

    def get(self, key: EntryKey, outlook: Outlook | None = None) -> Tensor | None:
        """Return an entry, not to be modified, or None.

        Args:
            key: Its name.
            outlook: What is known of its future after this read.
        """
        with self._lock:
            if self._doubts:
                self._check_doubt(key)
            tensor = self.device.get(key)
            if tensor is not None:
                self.stats.device_hits += 1
                if outlook is not None:
                    self._ledger.note(key, outlook)
                return tensor
            load = self._take_load(key) if self.slower else None
            if load is None:
                self.stats.misses += 1
                self._ledger.forget(key)
                return None
        return self._finish_load(load, outlook)

    def prefetch(self, keys: Iterable[EntryKey]) -> None:
        """Start loading entries, in the order in which they will be read, as far as there is room.

        Returns at once; what is on the device, under way or unknown is passed over.
        """
        if not self.looks_ahead:
            return
        with self._lock:
            self._settle()
            for key in keys:
                if self._closed or key in self._loads or key in self.device:
                    continue
                level = self._level_of(key)
                if level is None or (level is Tier.HOST and self._copier.in_place):
                    continue
                nbytes = self.slower[level].size_of(key)
                if not self.device.has_room(nbytes):
                    return
                load = self._open_load(key, level)
                load.promised = nbytes
                self.device.promise(nbytes)
                self._loads[key] = load
                load.start(self._workers)
                self.stats.prefetched += 1
            self._note_peak()

    def discard(self, key: EntryKey) -> None:
        """Forget an entry if it is there."""
        with self._lock:
            self._forget(key)

    def discard_request(self, request: int) -> None:
        """Forget every entry of a request."""
        with self._lock:
            for key in self._ledger.of(request):
                self._forget(key)
            for key in [k for k in self._storing if k.request == request]:
                del self._storing[key]
            self._ledger.close_request(request)
            self._settle()

    def empty(self, reason: str) -> None:
        """Forget everything, because what it was computed with is no longer there."""
        with self._lock:
            keys = self._ledger.everything()
            self._forget_all()
            self.stats.emptied += 1
        _LOG.warning("cache emptied of %d entries: %s", len(keys), reason)

    @contextmanager
    def lease(self, key: EntryKey) -> Iterator[Tensor | None]:
        """Keep an entry from being moved or evicted; yields what `get` returns."""
        with self._lock:
            self._ledger.lease(key)
        try:
            yield self.get(key)
        finally:
            with self._lock:
                self._ledger.end_lease(key)

    def resize(self, level: Tier, cap_bytes: int | None) -> None:
        """Change the cap of a tier; what is worth least leaves it until the rest fits.

        Args:
            level: A tier that is there.
            cap_bytes: None for no limit, which only the device tier can have.

        Raises:
            OSError: If a slab cannot grow; the old cap stays.
            MemoryError: Likewise, where its memory cannot be pinned.
        """
        self._land_everything()
        if level is Tier.DEVICE:
            self.device.cap_bytes = cap_bytes
            self._make_room(level, 0, None)
            return
        assert cap_bytes is not None
        tier = self.slower[level]
        old, tier.cap_bytes = tier.cap_bytes, min(cap_bytes, tier.cap_bytes)
        self._make_room(level, 0, None)
        self._land_everything()
        with self._lock:
            try:
                tier.resize(cap_bytes)
            except (OSError, MemoryError):
                tier.cap_bytes = old
                raise

    def retire(self, level: Tier) -> None:
        """Give up a slower tier with everything in it; from then on it costs nothing."""
        with self._lock:
            tier = self.slower[level]
            for key in tier.held():
                self._forget(key)
            del self.slower[level]
        if isinstance(tier, DiskTier):
            tier.close()

    def skip_dead_write(self) -> None:
        """Count an entry that is not put because nothing would read it."""
        with self._lock:
            self.stats.dead_writes += 1

    def close(self) -> None:
        """Forget everything, end the threads and give the slabs back; twice is harmless."""
        with self._lock:
            self._closed = True
            self._forget_all()
        if self.slower:
            self._workers.close()
            self._land_everything()
        disk = self.slower.get(Tier.DISK)
        if isinstance(disk, DiskTier):
            disk.close()

    def _route(self, tier: Tier) -> list[Tier]:
        """Order the tiers for an entry: the wished one, slower ones, then faster ones."""
        there = [Tier.DEVICE, *self.slower]
        return [t for t in there if t >= tier] + [t for t in reversed(there) if t < tier]

    def _put_fast(self, key: EntryKey, tensor: Tensor, outlook: Outlook | None) -> bool:
        if not tensor.is_cuda and not is_finite(tensor):
            raise NotFiniteError
        nbytes = tensor.nbytes
        if self.slower:
            self._largest = max(self._largest, nbytes)
        spare = self._spare_bytes() if self.slower else 0
        with self._lock:
            if self._closed:
                return False
            if self.device.put(key, tensor, spare=spare):
                self._placed(key, Tier.DEVICE, outlook)
                return True
            worth = self._ledger.worth(key, outlook, nbytes)
        if outlook is None or not self._make_room(Tier.DEVICE, nbytes, worth, spare=spare):
            return False
        with self._lock:
            kept = not self._closed and self.device.put(key, tensor, spare=spare)
            if kept:
                self._placed(key, Tier.DEVICE, outlook)
        return kept

    def _put_slow(
        self,
        level: Tier,
        key: EntryKey,
        tensor: Tensor,
        outlook: Outlook | None,
        *,
        check: torch.dtype,
    ) -> bool:
        codec = self.codec if tensor.is_floating_point() else LOSSLESS
        self._largest = max(self._largest, tensor.nbytes)
        form = Form(tensor.shape, tensor.dtype, codec.name)
        if codec is not LOSSLESS and not tensor.is_cuda and not is_finite(tensor):
            raise NotFiniteError
        whole = codec is LOSSLESS and not tensor.is_cuda
        payload = codec.encode(tensor)
        return self._store(level, key, payload, form, outlook, check=check if whole else None)

    def _store(
        self,
        level: Tier,
        key: EntryKey,
        payload: Tensor,
        form: Form,
        outlook: Outlook | None,
        *,
        check: torch.dtype | None = None,
        still: Callable[[], bool] | None = None,
    ) -> bool:
        """Write a payload into a slower tier, unless it is discarded or replaced meanwhile.

        Args:
            level: That tier.
            key: Name of the entry.
            payload: Its bytes.
            form: What they become again.
            outlook: What is known of its future.
            check: Dtype as which it must be finite.
            still: Of an entry that moves: whether it is still where it comes from. None for a new
                one, which overrides what is being written under its name.
        """
        tier, nbytes, token = self.slower[level], len(payload), object()
        with self._lock:
            if level is Tier.DISK and self._rest:
                self._rest -= 1
                return False
            self._settle()
            slot = tier.reserve(nbytes, form)
            worth = self._ledger.worth(key, outlook, nbytes)
        if slot is None:
            if outlook is None or not self._make_room(level, nbytes, worth):
                return False
            with self._lock:
                slot = tier.reserve(nbytes, form)
            if slot is None:
                return False
        if still is None:
            with self._lock:
                self._storing[key] = token
        try:
            tier.write(slot, key, payload, check)
        except BaseException as error:
            self._cancel(tier, slot, key, token)
            if not isinstance(error, OSError | RuntimeError | MemoryError):
                raise  # also an interruption from the keyboard
            error.with_traceback(None)  # a job may hold the error, and frames hold the job
            with self._lock:
                self._failed(level, "write to", error)
            return False
        with self._lock:
            wanted = self._storing.get(key) is token if still is None else still()
            if self._closed or not wanted:
                tier.release(slot)
                return not self._closed
            tier.commit(key, slot)
            self.stats.bytes_written += nbytes
            self._placed(key, level, outlook, moved=still is not None)
        return True

    def _cancel(self, tier: SlotTier, slot: Slot, key: EntryKey, token: object) -> None:
        with self._lock:
            tier.release(slot)
            if self._storing.get(key) is token:
                del self._storing[key]

    def _placed(
        self, key: EntryKey, level: Tier, outlook: Outlook | None, *, moved: bool = False
    ) -> None:
        """Note where an entry is from now on, and forget it elsewhere; lock held."""
        if self.slower:
            if not moved:  # an older write of that name comes too late; after a move, a newer one
                self._storing.pop(key, None)
            if level is not Tier.DEVICE:
                self.device.discard(key)
            for other, tier in self.slower.items():
                if other is not level:
                    tier.discard(key)
            self._leave_load(key)
        self._ledger.note(key, outlook)
        self._note_peak()

    def _make_room(self, level: Tier, nbytes: int, worth: float | None, *, spare: int = 0) -> bool:
        """Move entries that are worth less down, or out, until so many bytes fit.

        Args:
            level: The tier that is full.
            nbytes: Of the newcomer; 0 to get under the cap.
            worth: Of the newcomer; None if everything may go.
            spare: Bytes to leave free beyond it.
        """
        tier = self.device if level is Tier.DEVICE else self.slower[level]
        while True:
            with self._lock:
                self._settle()
                if self._fits(level, nbytes, spare):
                    return True
                sizes = ((key, tier.size_of(key)) for key in tier.held())
                victim = self._ledger.least(sizes, worth)
                if victim is None:
                    return False
                self._ledger.moving.add(victim)
            try:
                self._push_down(level, victim)
            finally:
                with self._lock:
                    self._ledger.moving.discard(victim)

    def _fits(self, level: Tier, nbytes: int, spare: int) -> bool:
        if level is Tier.DEVICE:
            return self.device.has_room(nbytes, spare=spare)
        tier = self.slower[level]
        if not nbytes:
            return tier.used_bytes <= tier.cap_bytes
        slot = tier.reserve(nbytes, Form(torch.Size(()), torch.uint8, "none"))
        if slot is not None:
            tier.release(slot)
        return slot is not None

    def _push_down(self, level: Tier, key: EntryKey) -> None:
        """Move an entry to the next slower tier that takes it, or drop it."""
        with self._lock:
            outlook = self._ledger.outlook(key)
            if level is Tier.DEVICE:
                entry: Tensor | Slot | None = self.device.get(key)
            else:
                entry = self.slower[level].pin(key)
        if entry is None:
            return
        still = partial(self._is_at, level, key, entry)
        try:
            moved = self._move(level, key, entry, outlook, still)
        finally:
            if isinstance(entry, Slot):
                with self._lock:
                    self.slower[level].unpin(entry)
        with self._lock:
            self.stats.demoted += moved
            if not moved and still():
                self.stats.evicted += 1
                self._forget(key)

    def _is_at(self, level: Tier, key: EntryKey, entry: Tensor | Slot) -> bool:
        """Tell whether an entry is still where it was, and may leave; lock held."""
        if self._ledger.is_leased(key):
            return False
        if level is Tier.DEVICE:
            return self.device.get(key) is entry
        return self.slower[level].slot(key) is entry

    def _move(
        self,
        level: Tier,
        key: EntryKey,
        entry: Tensor | Slot,
        outlook: Outlook | None,
        still: Callable[[], bool],
    ) -> bool:
        """Write an entry into a slower tier; False if none takes it."""
        if isinstance(entry, Slot):
            try:
                payload, form = self.slower[level].read(entry, key), entry.form
            except (OSError, CacheCorruptionError) as error:
                error.with_traceback(None)
                return False
        else:
            codec = self.codec if entry.is_floating_point() else LOSSLESS
            payload, form = codec.encode(entry), Form(entry.shape, entry.dtype, codec.name)
        moved = any(
            self._store(lower, key, payload, form, outlook, still=still)
            for lower in self.slower
            if lower > level
        )
        if moved and level is Tier.DEVICE:
            self._finish_flight(key)
        return moved

    def _finish_flight(self, key: EntryKey) -> None:
        """Wait for the copy of a demoted entry: its bytes are only then free on the device."""
        for tier in self.slower.values():
            slot = tier.slot(key)
            if slot is not None:
                slot.finish()

    def _spare_bytes(self) -> int:
        """Return what puts leave free on the device for loads ahead."""
        cap = self.device.cap_bytes
        if cap is None or not self.looks_ahead:
            return 0
        return min(cap // 2, _STAGED * self._largest)

    def _level_of(self, key: EntryKey) -> Tier | None:
        return next((level for level, tier in self.slower.items() if key in tier), None)

    def _open_load(self, key: EntryKey, level: Tier) -> Load:
        tier = self.slower[level]
        slot = tier.pin(key)
        assert slot is not None
        return Load(key, level, tier, slot, self._copier)

    def _take_load(self, key: EntryKey) -> Load | None:
        """Return the load of an entry, begun ahead or not yet; lock held."""
        self._settle()
        load = self._loads.pop(key, None)
        if load is None:
            level = self._level_of(key)
            if level is None or self._closed:
                return None
            load = self._open_load(key, level)
            if level is Tier.DISK and self._compute_s_per_byte is not None:
                load.start(self._workers)
        return load

    def _finish_load(self, load: Load, outlook: Outlook | None) -> Tensor | None:
        limit, ahead = None, load.promised > 0
        if self._compute_s_per_byte is not None:
            limit = max(_PATIENCE_S, self._compute_s_per_byte * load.slot.nbytes)
        there = load.job is not None and load.job.done
        started = time.perf_counter()
        loaded, error = None, None
        try:
            loaded = load.finish(limit)
        except Exception as caught:
            error = caught.with_traceback(None)  # whose frames would keep themselves, and slots
        except BaseException:  # an interruption from the keyboard: the reader goes, not the load
            with self._lock:
                self._left.append(load)
            raise
        waited = 0.0 if there else time.perf_counter() - started
        with self._lock:
            stats = self.stats
            if ahead:
                stats.hidden += there
                stats.late += not there
            if loaded is None:
                self._fail_load(load, error)
                return None
            self._end_load(load)
            stats.load_s += loaded.seconds
            stats.wait_s += min(waited, loaded.seconds)
            stats.bytes_read += load.slot.nbytes
            stats.host_hits += load.level is Tier.HOST
            stats.disk_hits += load.level is Tier.DISK
            if not loaded.ticket.done():
                self._landing.append(loaded)
        loaded.ticket.wait()
        form = load.slot.form
        tensor = CODECS[form.codec].decode(loaded.payload, form.shape, form.dtype)
        self._keep_loaded(load, tensor, outlook)
        return tensor

    def _keep_loaded(self, load: Load, tensor: Tensor, outlook: Outlook | None) -> None:
        """Note the read, and leave the entry on the device if there is room for it."""
        tier = self.slower[load.level]
        with self._lock:
            if tier.slot(load.key) is not load.slot:
                return
            if outlook is not None:
                self._ledger.note(load.key, outlook)
            if load.level is Tier.HOST and self._copier.in_place:
                return  # a tensor over the slab is as fast as one beside it
            if self.device.put(load.key, tensor, spare=self._spare_bytes()):
                tier.discard(load.key)
                self.stats.promoted += 1
                self._note_peak()

    def _fail_load(self, load: Load, error: Exception | None) -> None:
        """Make a miss of a load that failed or came too late; lock held."""
        self.stats.misses += 1
        if error is None:
            self.stats.given_up += 1
            self._left.append(load)
            return
        self._end_load(load)
        tier = self.slower[load.level]
        if tier.slot(load.key) is load.slot:
            tier.discard(load.key)
            self._ledger.forget(load.key)
        if isinstance(error, CacheCorruptionError):
            self.stats.corrupt += 1
            _LOG.warning("dropped a cache entry: %s", str(error))
        else:
            self._failed(load.level, "read from", error)

    def _leave_load(self, key: EntryKey) -> None:
        """Give up a load ahead that nobody needs any more; lock held."""
        load = self._loads.pop(key, None)
        if load is not None:
            self.stats.prefetch_wasted += 1
            self._left.append(load)

    def _end_load(self, load: Load) -> None:
        self.slower[load.level].unpin(load.slot)
        self.device.promise(-load.promised)
        load.promised = 0

    def _settle(self) -> None:
        """Let go of what has ended meanwhile; lock held."""
        for tier in self.slower.values():
            tier.settle()
        if self._left:
            for load in self._left:
                if load.job is not None:
                    load.job.cancel()  # unless a worker has begun
            over = [load for load in self._left if load.job is None or load.job.done]
            self._left = [load for load in self._left if load not in over]
            for load in over:
                self._end_load(load)
                if load.job is not None and load.job.result is not None:
                    self._landing.append(load.job.result)  # its copy may still run
        if self._landing:
            self._landing = [loaded for loaded in self._landing if not loaded.ticket.done()]

    def _land_everything(self) -> None:
        """Give up loads ahead and wait for copies under way, so that all bytes can be counted."""
        with self._lock:
            for key in list(self._loads):
                self._leave_load(key)
        self._wait_for_left()
        with self._lock:
            self._settle()
            # Only the tickets: who holds a load holds the slot that it reads.
            tickets = [loaded.ticket for loaded in self._landing]
            tiers = list(self.slower.values())
        for ticket in tickets:
            ticket.finish()
        for tier in tiers:
            tier.land()
        with self._lock:
            self._landing.clear()
            self._settle()

    def _wait_for_left(self) -> None:
        with self._lock:
            jobs = [load.job for load in self._left if load.job is not None]
        for job in jobs:
            job.cancel()
            job.wait()

    def _check_doubt(self, key: EntryKey) -> None:
        doubt = self._doubts.get(key)
        if doubt is not None and doubt.settled:
            del self._doubts[key]
            if doubt.refused:
                self.stats.not_finite += 1
                self._forget(key)

    def _forget(self, key: EntryKey) -> None:
        """Forget an entry wherever it is; lock held."""
        self.device.discard(key)
        self._ledger.forget(key)
        if self._doubts:
            self._doubts.pop(key, None)
        if self.slower:
            self._storing.pop(key, None)
            self._leave_load(key)
            for tier in self.slower.values():
                tier.discard(key)

    def _forget_all(self) -> None:
        for key in self._ledger.everything():
            self._forget(key)
        self._storing.clear()

    def _note_peak(self) -> None:
        stats, device = self.stats, self.device.used_bytes
        used = self.used_bytes if self.slower else device
        if used > stats.peak_bytes:
            stats.peak_bytes = used
        if device > stats.peak_device_bytes:
            stats.peak_device_bytes = device

    def _failed(self, level: Tier, what: str, error: Exception) -> None:
        """Count a failure, and leave a disk that has failed alone for a while; lock held."""
        if not self.stats.errors:
            # As text: who keeps records would keep the error's frames, and the slots that they use.
            _LOG.warning("cannot %s the %s tier: %s", what, level.name.lower(), str(error))
        self.stats.errors += 1
        if level is Tier.DISK:
            self._rest = _REST

    def _after_fork(self) -> None:
        """Begin anew in a child process, closed where threads and file belong to the parent.

        At the fork another thread may have held the lock, and have been in the middle of anything.
        """
        self._lock = threading.Lock()
        disk = self.slower.get(Tier.DISK)
        if isinstance(disk, DiskTier):
            disk.let_go()
        self._closed = self._closed or bool(self.slower)
        self.device, self.slower = DeviceTier(self.device.cap_bytes), {}
        self._ledger, self._doubts, self._storing = Ledger(), {}, {}
        self._loads, self._left, self._landing = {}, [], []


#: All stores, which a forked child finds as they were in the middle of other threads' work.
_STORES: weakref.WeakSet[TieredCache] = weakref.WeakSet()


def _close_in_child() -> None:
    for store in list(_STORES):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
