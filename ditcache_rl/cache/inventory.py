"""What lies where: the state that all jobs of the store share, and the lock that guards it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ditcache_rl.cache.flights import Flights
from ditcache_rl.cache.integrity import Doubt
from ditcache_rl.cache.ledger import Ledger
from ditcache_rl.cache.placement import Outlook
from ditcache_rl.cache.slab import Slot
from ditcache_rl.cache.stats import CacheStats
from ditcache_rl.cache.tier import DeviceTier, SlotTier
from ditcache_rl.cache.transfer import Copier, copier_for
from ditcache_rl.cache.workers import Job, Workers
from ditcache_rl.types import EntryKey, Tier

_LOG = logging.getLogger(__name__)
#: Puts for which a disk that has failed is left alone; then it gets another chance.
_REST = 64
#: Shortest wait for a call of the disk: below, a machine's scheduling decides and not its disk.
_PATIENCE_S = 0.1
#: Entries for which the device tier leaves room, so that loads ahead have somewhere to go. On a CPU
#: the host tier leaves room for one more, since a forecast of order 2 reads three.
_STAGED = 2


class Inventory:
    """The tiers, and what is known of every entry in them.

    Every method expects `lock` to be held; nobody holds it while bytes move.

    Notes:
        An entry is at all times in exactly one tier. `storing` names the youngest write under way
        of each key: an older one that ends later is thrown away.

    Attributes:
        lock: Guards everything here.
        device: The fastest tier.
        slower: Host and disk, as far as they are there, the faster one first.
        stats: Counters.
        ledger: Futures and moves.
        flights: Loads under way.
        storing: Slots of writes under way.
        doubts: GPU entries of which it is not known yet whether they are finite.
        closed: Whether nothing may be stored any more.
        largest_bytes: Of the entries so far, for which `spare_bytes` may have to leave room.
        staging: Whether anybody has asked for loads ahead, which need room on the device.
    """

    def __init__(
        self,
        device_bytes: int | None,
        device: torch.device,
        copier: Copier | None,
        compute_s_per_byte: float | None,
    ) -> None:
        self.lock = threading.Lock()
        self.device = DeviceTier(device_bytes)
        self.slower: dict[Tier, SlotTier] = {}
        self.stats = CacheStats()
        self.ledger = Ledger()
        self.flights = Flights(self.slower, self.stats)
        self.storing: dict[EntryKey, Slot] = {}
        self.doubts: dict[EntryKey, Doubt] = {}
        self.closed = False
        self.copier = copier or copier_for(device)
        self.workers = Workers()
        self.staging = False
        self._compute_s_per_byte = compute_s_per_byte
        self._overdue: list[tuple[Job, Callable[[], None]]] = []
        self._rest = 0
        self.largest_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes held now in all tiers."""
        used = self.device.used_bytes
        for tier in self.slower.values():
            used += tier.allocator.used_bytes + tier.promised_bytes
        return used

    @property
    def looks_ahead(self) -> bool:
        """Whether there is anything that could be loaded ahead of its use."""
        return Tier.DISK in self.slower or (bool(self.slower) and not self.copier.in_place)

    def others(self, tier: Tier) -> list[Tier]:
        """Order the tiers for an entry that another has no room for: slower ones, faster ones."""
        there = [Tier.DEVICE, *self.slower]
        return [t for t in there if t > tier] + [t for t in reversed(there) if t < tier]

    def level_of(self, key: EntryKey) -> Tier | None:
        """Return the slower tier that holds an entry."""
        for level, tier in self.slower.items():
            if key in tier:
                return level
        return None

    def is_at(self, level: Tier, key: EntryKey, entry: Tensor | Slot) -> bool:
        """Tell whether an entry is still where it was."""
        if level is Tier.DEVICE:
            return self.device.get(key) is entry
        return self.slower[level].slot(key) is entry

    def placed(
        self,
        key: EntryKey,
        level: Tier,
        outlook: Outlook | None,
        *,
        moved: bool = False,
        replaced: bool = False,
    ) -> None:
        """Note where an entry is from now on, and forget it elsewhere.

        Args:
            key: Its name.
            level: Its tier.
            outlook: What is known of its future.
            moved: Whether it comes from another tier.
            replaced: Whether that tier had one of this name, so that no other tier has.
        """
        if not moved:
            self.stats.puts += 1
            self.storing.pop(key, None)  # an older write comes too late; after a move, a newer one
        if self.slower and not replaced:
            if level is not Tier.DEVICE:
                self.device.discard(key)
            for other, tier in self.slower.items():
                if other is not level:
                    tier.discard(key)
        if self.flights.ahead:
            self.flights.leave(key)
        self.ledger.note(key, outlook)
        self.note_peak()

    def forget(self, key: EntryKey) -> None:
        """Forget an entry wherever it is."""
        self.device.discard(key)
        self.ledger.forget(key)
        if self.doubts:
            self.doubts.pop(key, None)
        if self.slower:
            self.storing.pop(key, None)
            self.flights.leave(key)
            for tier in self.slower.values():
                tier.discard(key)

    def forget_request(self, request: int) -> None:
        """Forget every entry of a request that is over."""
        for key in self.ledger.of(request):
            self.forget(key)
        for key in [k for k in self.storing if k.request == request]:
            del self.storing[key]
        self.ledger.close_request(request)
        self.flights.settle()

    def forget_all(self) -> None:
        """Forget every entry."""
        for key in self.ledger.everything():
            self.forget(key)
        self.storing.clear()

    def check_doubt(self, key: EntryKey) -> None:
        """Forget an entry that has turned out not to be finite."""
        doubt = self.doubts.get(key)
        if doubt is not None and doubt.settled:
            del self.doubts[key]
            if doubt.refused:
                self.stats.not_finite += 1
                self.forget(key)

    def stage(self) -> None:
        """Leave room for loads ahead from now on, where they can be."""
        self.staging = True
        disk, host = self.slower.get(Tier.DISK), self.slower.get(Tier.HOST)
        if disk is not None and host is not None and self.copier.in_place:
            kept = disk.allocator.rounded(self.largest_bytes)
            host.kept_bytes = kept if kept <= host.cap_bytes // 4 else 0

    def spare_bytes(self) -> int:
        """Return what puts leave free on the device for loads ahead."""
        cap = self.device.cap_bytes
        if cap is None or not self.staging or not self.looks_ahead:
            return 0
        return min(cap * 3 // 4, _STAGED * self.largest_bytes)

    def note_peak(self) -> None:
        """Note the bytes held now."""
        stats = self.stats
        device = used = self.device.used_bytes
        for tier in self.slower.values():
            used += tier.allocator.used_bytes + tier.promised_bytes
        if used > stats.peak_bytes:
            stats.peak_bytes = used
        if device > stats.peak_device_bytes:
            stats.peak_device_bytes = device

    def patience_s(self, nbytes: int) -> float | None:
        """Return how long a call of the disk may take; None without a limit."""
        if self._compute_s_per_byte is None:
            return None
        return max(_PATIENCE_S, self._compute_s_per_byte * nbytes)

    def overdue(self, job: Job, end: Callable[[], None]) -> None:
        """Let the disk sleep until a job has ended that was waited for in vain.

        Args:
            job: What does not come back.
            end: Called then, with the lock held.
        """
        if not self._overdue:
            _LOG.warning("the disk tier sleeps: a call takes longer than computing what it moves")
        self._overdue.append((job, end))

    def sleeps(self, level: Tier) -> bool:
        """Tell whether a tier has a call that does not come back."""
        if not self._overdue or level is not Tier.DISK:
            return False
        ended = [end for job, end in self._overdue if job.done]
        self._overdue = [(job, end) for job, end in self._overdue if not job.done]
        for end in ended:
            end()
        return bool(self._overdue)

    def rests(self, level: Tier) -> bool:
        """Tell whether a tier that sleeps or has failed is left alone for this put."""
        if level is not Tier.DISK or not (self._rest or self._overdue):
            return False
        if self.sleeps(level):
            return True
        if not self._rest:
            return False
        self._rest -= 1
        return True

    def failed(self, level: Tier, what: str, error: Exception) -> None:
        """Count a failure, and leave a disk that has failed alone for a while."""
        if not self.stats.errors:
            # As text: who keeps records would keep the error's frames, and the slots that they use.
            _LOG.warning("cannot %s the %s tier: %s", what, level.name.lower(), str(error))
        self.stats.errors += 1
        if level is Tier.DISK:
            self._rest = _REST
