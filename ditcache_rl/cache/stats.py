"""Counters of a cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStats:
    """What a cache did since it was made; read it at any time.

    Attributes:
        device_hits: Reads served from the device tier.
        host_hits: Reads served from the host tier.
        disk_hits: Reads served from the disk tier.
        device_hit_bytes: Bytes of the entries read there.
        host_hit_bytes: Likewise, as they are stored.
        disk_hit_bytes: Likewise.
        misses: Reads that found nothing; `lookups == hits + misses`.
        puts: Entries stored.
        rejected: Entries that no tier had room for, or that were not finite.
        not_finite: Of those, the ones with NaN or Inf.
        evicted: Entries dropped to make room.
        demoted: Entries moved to a slower tier.
        promoted: Entries moved to the device tier.
        dead_writes: Puts left out because nothing would have read them.
        prefetched: Loads started ahead of their read.
        prefetch_wasted: Of those, the ones that nothing read.
        hidden: Prefetched loads that were there when they were needed.
        late: Prefetched loads that had to be waited for.
        given_up: Loads that took so long that the site was computed instead.
        corrupt: Entries that came back other than they went, and were dropped.
        errors: Failed system calls.
        emptied: Times that everything was dropped because the model had changed.
        bytes_written: To host and disk.
        load_s: Seconds that loads took, wherever they ran.
        wait_s: Of those, seconds in which a reader stood still.
        peak_bytes: Most bytes held at one time, all tiers together.
        peak_device_bytes: Most bytes held at one time on the device.
    """

    device_hits: int = 0
    host_hits: int = 0
    disk_hits: int = 0
    device_hit_bytes: int = 0
    host_hit_bytes: int = 0
    disk_hit_bytes: int = 0
    misses: int = 0
    puts: int = 0
    rejected: int = 0
    not_finite: int = 0
    evicted: int = 0
    demoted: int = 0
    promoted: int = 0
    dead_writes: int = 0
    prefetched: int = 0
    prefetch_wasted: int = 0
    hidden: int = 0
    late: int = 0
    given_up: int = 0
    corrupt: int = 0
    errors: int = 0
    emptied: int = 0
    bytes_written: int = 0
    load_s: float = 0.0
    wait_s: float = 0.0
    peak_bytes: int = 0
    peak_device_bytes: int = 0

    @property
    def hits(self) -> int:
        """Reads that found their entry."""
        return self.device_hits + self.host_hits + self.disk_hits

    @property
    def bytes_read(self) -> int:
        """Bytes that came from host and disk."""
        return self.host_hit_bytes + self.disk_hit_bytes

    @property
    def hidden_share(self) -> float:
        """Share of the load time in which nobody stood still; 1 where nothing was loaded."""
        return max(0.0, 1.0 - self.wait_s / self.load_s) if self.load_s else 1.0
