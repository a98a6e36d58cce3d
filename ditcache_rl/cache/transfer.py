"""Copies between the device and host memory; on a GPU they run beside the computation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Ticket(Protocol):
    """A copy that may still be running."""

    def done(self) -> bool:
        """Tell whether it has ended."""
        ...

    def wait(self) -> None:
        """Make its result visible to what the caller does next."""
        ...

    def finish(self) -> None:
        """Return when it has ended, so that its source may be overwritten."""
        ...


class Done:
    """A copy that has ended."""

    def done(self) -> bool:
        """It has."""
        return True

    def wait(self) -> None:
        """Nothing to wait for."""

    def finish(self) -> None:
        """Nothing to wait for."""


DONE = Done()


class Copier(Protocol):
    """Moves contiguous tensors; whoever starts a copy keeps both ends until it has ended."""

    #: Whether `to_device` returns its argument, so that there is nothing to fetch ahead.
    in_place: bool

    def to_host(self, source: Tensor, target: Tensor) -> Ticket:
        """Copy device memory into host memory of the same dtype and shape."""
        ...

    def to_device(self, source: Tensor) -> tuple[Tensor, Ticket]:
        """Return a tensor in host memory as one of the device."""
        ...


class CpuCopier:
    """Device and host are the same memory: what is stored is copied, what is read is a view."""

    in_place = True

    def to_host(self, source: Tensor, target: Tensor) -> Ticket:
        """Copy at once."""
        target.copy_(source)
        return DONE

    def to_device(self, source: Tensor) -> tuple[Tensor, Ticket]:
        """Return it where it is."""
        return source, DONE


class _Event:
    """A copy on a side stream."""

    def __init__(self, event: Any, device: torch.device, kept: tuple[Tensor, ...]) -> None:
        self._event, self._device, self._kept = event, device, kept

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event)

    def finish(self) -> None:
        self._event.synchronize()
        self._kept = ()


class CudaCopier:
    """One stream per direction, ordered with the computation by events.

    Notes:
        Each tensor that a side stream touches is made known to the allocator by `record_stream`, so
        that its memory is not given to another one before the copy has ended.
    """

    in_place = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._out = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._in = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def to_host(self, source: Tensor, target: Tensor) -> Ticket:
        """Start a copy behind what computes `source`."""
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._out):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._out)
        source.record_stream(self._out)
        return _Event(event, self._device, (source, target))

    def to_device(self, source: Tensor) -> tuple[Tensor, Ticket]:
        """Start a copy; allocated on its own stream, then lent to that of the computation."""
        with torch.cuda.stream(self._in):
            copy = torch.empty(source.shape, dtype=source.dtype, device=self._device)
            copy.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._in)
        copy.record_stream(torch.cuda.current_stream(self._device))
        return copy, _Event(event, self._device, (source,))


def copier_for(device: torch.device) -> Copier:
    """Choose the copier of a device."""
    return CudaCopier(device) if device.type == "cuda" else CpuCopier()
