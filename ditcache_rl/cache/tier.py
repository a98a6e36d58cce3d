"""One tier: a mapping from entry keys to tensors under a byte cap."""

from __future__ import annotations

from torch import Tensor

from ditcache_rl.types import EntryKey


class DeviceTier:
    """Entries held by reference on the pipeline's device, counted against a cap.

    On a machine without GPU this is a capped pool in main memory, so that the same path runs there.

    Notes:
        Access is as cheap as a dict lookup. The caller gives a stored tensor away and must not
        modify it. Lowering `cap_bytes` does not evict by itself; it only stops new entries.
    """

    def __init__(self, cap_bytes: int | None = None) -> None:
        #: Most bytes to hold; None for no limit.
        self.cap_bytes = cap_bytes
        self._entries: dict[EntryKey, Tensor] = {}
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes held now."""
        return self._used_bytes

    @property
    def free_share(self) -> float:
        """Unused share of the cap, in [0, 1]; 1 without a cap."""
        if self.cap_bytes is None:
            return 1.0
        return max(0.0, 1.0 - self._used_bytes / self.cap_bytes) if self.cap_bytes else 0.0

    def put(self, key: EntryKey, tensor: Tensor) -> bool:
        """Store a tensor by reference; an entry of the same key is replaced.

        Returns:
            False, with nothing changed, if the cap would be exceeded.
        """
        old = self._entries.get(key)
        used = self._used_bytes + tensor.nbytes - (old.nbytes if old is not None else 0)
        if self.cap_bytes is not None and used > self.cap_bytes:
            return False
        self._entries[key] = tensor
        self._used_bytes = used
        return True

    def get(self, key: EntryKey) -> Tensor | None:
        """Return the stored tensor, or None."""
        return self._entries.get(key)

    def discard(self, key: EntryKey) -> None:
        """Forget an entry if it is there."""
        tensor = self._entries.pop(key, None)
        if tensor is not None:
            self._used_bytes -= tensor.nbytes

    def held(self) -> tuple[EntryKey, ...]:
        """List the keys held now."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries
