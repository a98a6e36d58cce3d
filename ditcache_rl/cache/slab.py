"""Where in a slab an entry lies: an allocator of extents, and the slots that it hands out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ditcache_rl.cache.codec import Original


class Allocator:
    """Hand out extents of a slab.

    A request has few different sizes, so an extent that is given back waits for the next one of
    exactly its size; only when nothing else fits are neighbours joined again. New sizes take the
    first extent that is large enough.

    Args:
        capacity: Bytes of the slab; `lay` changes them.
        align: Every extent starts and ends at a multiple of it.

    Notes:
        `used_bytes + free_bytes == capacity` at all times. Not thread-safe.
    """

    def __init__(self, capacity: int, *, align: int) -> None:
        self._align = align
        self._sizes: dict[int, int] = {}
        self._waiting: defaultdict[int, list[int]] = defaultdict(list)
        self.used_bytes = 0
        self.lay([(0, capacity)])

    @property
    def free_bytes(self) -> int:
        """Bytes that no extent covers."""
        return self.capacity - self.used_bytes

    def rounded(self, nbytes: int) -> int:
        """Return what an extent of so many bytes really takes; never zero."""
        return (-nbytes // self._align * -self._align) or self._align

    def take(self, nbytes: int, most: int | None = None) -> int | None:
        """Return the offset of a new extent, or None if there is no room for it.

        Args:
            nbytes: Of its content.
            most: Bytes that may be used, if those are fewer than there are.
        """
        size = (-nbytes // self._align * -self._align) or self._align
        if most is not None and self.used_bytes + size > most:
            return None
        waiting = self._waiting.get(size)
        if waiting:
            offset = waiting.pop()
        elif size > self.free_bytes:
            return None
        else:
            found = self._first_fit(size)
            if found is None:
                self._join()
                found = self._first_fit(size)
            if found is None:
                return None
            offset = found
        self._sizes[offset] = size
        self.used_bytes += size
        return offset

    def give(self, offset: int) -> None:
        """Take an extent back; what lies behind the end is given up."""
        size = self._sizes.pop(offset)
        self.used_bytes -= size
        beyond = offset + size - self.end
        if beyond <= 0:
            self._waiting[size].append(offset)
            return
        self.capacity -= min(size, beyond)
        if size > beyond:
            self._gaps.append((offset, size - beyond))

    def lay(self, spans: Sequence[tuple[int, int]]) -> None:
        """Make (offset, size) spans the slab from now on, with the extents in use where they are.

        Args:
            spans: In order, and apart, unless an extent may lie in two of them. Extents in use lie
                in one of them or behind the last, which they leave when they are given back.
        """
        self._waiting.clear()
        whole = [(start, size - size % self._align) for start, size in spans]
        #: No new extent reaches beyond.
        self.end = max((start + size for start, size in whole), default=0)
        self._gaps = []
        used = iter(sorted(self._sizes.items()))
        offset, taken = next(used, (self.end, 0))
        for start, size in whole:
            stop = start + size
            while offset < stop:
                if offset > start:
                    self._gaps.append((start, offset - start))
                start = offset + taken
                offset, taken = next(used, (self.end, 0))
            if start < stop:
                self._gaps.append((start, stop - start))
        self.capacity = self.used_bytes + sum(size for _, size in self._gaps)

    @property
    def reach(self) -> int:
        """Where the slab ends, or the last extent in use behind that."""
        return max(self.end, *(self._end_of(offset) for offset in self._sizes), 0)

    def beyond(self, offset: int) -> bool:
        """Tell whether an extent in use lies behind the end, or reaches beyond."""
        return self._end_of(offset) > self.end

    def _end_of(self, offset: int) -> int:
        return offset + self._sizes[offset]

    def gaps(self) -> list[tuple[int, int]]:
        """List (offset, size) of what is free, neighbours joined."""
        self._join()
        return list(self._gaps)

    def _first_fit(self, size: int) -> int | None:
        for index, (start, room) in enumerate(self._gaps):
            if room >= size:
                if room == size:
                    del self._gaps[index]
                else:
                    self._gaps[index] = (start + size, room - size)
                return start
        return None

    def _join(self) -> None:
        """Put what waits back among the gaps, and make one of neighbours."""
        gaps = [(offset, size) for size, offsets in self._waiting.items() for offset in offsets]
        self._waiting.clear()
        joined: list[tuple[int, int]] = []
        for start, size in sorted(self._gaps + gaps):
            if joined and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        self._gaps = joined


class Slot:
    """An entry's place in a slab.

    Attributes:
        offset: Of its extent.
        nbytes: Of its payload; the extent may be larger.
        shape: Of its payload.
        dtype: Of its payload.
        original: What the payload stands for; None if it is the entry itself.
        serial: Unlike that of every other slot; part of the checksum.
        seal: Checksums of the payload's parts, where the tier has them.
        users: Readers that have pinned it; changed with the store's lock held.
        holds: By identity, what else still needs the extent: references to tensors over it, and
            copies that fill it. Entries are added in any thread, for which a dict needs no lock.
        dead: Forgotten by the tier; the extent is free when nobody uses or holds it.
        tickets: Of the copies that fill it.
    """

    __slots__ = (
        "dead",
        "dtype",
        "holds",
        "nbytes",
        "offset",
        "original",
        "seal",
        "serial",
        "shape",
        "tickets",
        "users",
    )

    def __init__(
        self, offset: int, nbytes: int, payload: Tensor, original: Original | None, serial: int
    ) -> None:
        self.offset, self.nbytes, self.serial = offset, nbytes, serial
        self.shape, self.dtype, self.original = payload.shape, payload.dtype, original
        self.seal: tuple[int, ...] = ()
        self.users = 0
        self.dead = False
        self.tickets: list[Any] = []
        self.holds: dict[int, Any] = {}

    @property
    def free(self) -> bool:
        """Whether the extent may be given away."""
        return self.dead and not self.users and not self.holds

    def finish(self) -> None:
        """Wait for the copies that fill it."""
        for ticket in self.tickets:
            ticket.finish()
        self.tickets.clear()
