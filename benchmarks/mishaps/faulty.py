"""System calls that fail as tests want them to, and copies that end as late as tests want."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ditcache_rl.cache import SystemIO
from ditcache_rl.cache.io import Buffer
from ditcache_rl.cache.transfer import Ticket

FAULTS = ("eio", "eintr", "short", "enospc", "emfile", "estale", "slow")
_CODES = {
    "eio": errno.EIO,
    "eintr": errno.EINTR,
    "enospc": errno.ENOSPC,
    "emfile": errno.EMFILE,
    "estale": errno.ESTALE,
}


class FaultyIO(SystemIO):
    """Fails some reads and writes at random.

    Args:
        rng: Decides which.
        rate: Share of calls that fail.
        kinds: Among `FAULTS`.
        slow_s: How long a slow call sleeps.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        rate: float,
        kinds: tuple[str, ...] = FAULTS,
        slow_s: float = 0.001,
    ) -> None:
        self.rng, self.rate, self.kinds, self.slow_s = rng, rate, kinds, slow_s
        self.injected = 0

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write, or fail."""
        return super().pwrite(fd, self._disturb(data, writing=True), offset)

    def preadv(self, fd: int, data: Buffer, offset: int) -> int:
        """Read, or fail."""
        return super().preadv(fd, self._disturb(data, writing=False), offset)

    def _disturb(self, data: Buffer, *, writing: bool) -> Buffer:
        if self.rng.random() >= self.rate:
            return data
        self.injected += 1
        kind = self.rng.choice(self.kinds)
        if kind in _CODES and (writing or kind != "enospc"):
            raise OSError(_CODES[kind], os.strerror(_CODES[kind]))  # EINTR: InterruptedError
        if kind == "slow":
            time.sleep(self.slow_s)
        return data[: max(1, len(data) // 2)] if kind == "short" else data


class LateTicket:
    """A copy that happens when somebody waits for it, or when its time comes."""

    def __init__(self, copy: Callable[[], None]) -> None:
        self._copy: Callable[[], None] | None = copy

    def done(self) -> bool:
        """Tell whether it has happened."""
        return self._copy is None

    def wait(self) -> None:
        """Let it happen."""
        self.finish()

    def finish(self) -> None:
        """Let it happen, once."""
        copy, self._copy = self._copy, None
        if copy is not None:
            copy()


class LateCopier:
    """A device whose copies end late and out of order, as side streams may.

    Until then the target holds garbage, and whoever overwrites the source spoils the copy: exactly
    what goes wrong on a GPU without synchronisation.
    """

    in_place = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pending: list[LateTicket] = []

    def to_host(self, source: Tensor, target: Tensor) -> Ticket:
        """Copy later; the target holds garbage until then."""
        target.fill_(0xAB)
        return self._later(lambda: target.copy_(source))

    def to_device(self, source: Tensor) -> tuple[Tensor, Ticket]:
        """Copy later; the copy holds garbage until then."""
        copy = torch.full_like(source, 0x4D)
        return copy, self._later(lambda: copy.copy_(source))

    def tick(self) -> None:
        """End some copies, in any order."""
        self._pending = [ticket for ticket in self._pending if not ticket.done()]
        for ticket in self._rng.sample(self._pending, self._rng.randint(0, len(self._pending))):
            ticket.finish()

    def _later(self, copy: Callable[[], object]) -> LateTicket:
        ticket = LateTicket(lambda: (copy(), None)[1])
        self._pending.append(ticket)
        return ticket
