"""Memory for what is read from disk, used again when the tensors over it have died."""

from __future__ import annotations

import weakref
from collections import deque
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.cache.integrity import array_over
from ditcache_rl.cache.slab import Slot

PAGE_BYTES = 4096  # of the page cache and of the file system
#: From here on memory for loads is kept for the next ones.
_POOL_FROM = 1 << 16
#: Buffers that are kept for the next load: fresh memory is slower than the disk's cache.
_SPARE_BUFFERS = 4


def whole_pages(nbytes: int) -> int:
    """Round up to what a read beside the page cache can take."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


class Buffers:
    """Memory for loads, used again when the tensors over it have died.

    Large fresh memory costs a page fault every 4 KiB, which takes longer than reading.
    """

    def __init__(self) -> None:
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE_BUFFERS)
        self._lent: dict[int, Any] = {}

    def take(self, slot: Slot) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return aligned memory whose contents do not matter, and the payload's view of it."""
        if slot.nbytes < _POOL_FROM:
            small = np.empty(slot.nbytes, dtype=np.uint8)
            return small, array_over(small, slot.shape, slot.dtype)
        whole = whole_pages(slot.nbytes)
        room: NDArray[np.uint8] | None = None
        while room is None and self._idle:
            try:
                idle = self._idle.popleft()
            except IndexError:  # another thread was faster
                break
            room = idle if idle.nbytes == whole else None
        if room is None:
            padded = np.empty(whole + PAGE_BYTES, dtype=np.uint8)
            start = -padded.ctypes.data % PAGE_BYTES
            room = padded[start : start + whole]
        # Torch holds this very array as long as any tensor looks at it, views of views included.
        lent = array_over(room[: slot.nbytes], slot.shape, slot.dtype)
        reference = weakref.ref(lent, partial(self._back, room))
        self._lent[id(reference)] = reference  # an array has no hash, and so has its reference
        return room, lent

    def _back(self, memory: NDArray[np.uint8], reference: Any) -> None:
        self._lent.pop(id(reference), None)
        self._idle.append(memory)
