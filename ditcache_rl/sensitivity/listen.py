"""Listen to every site of every denoiser call, without a controller and without a cache.

A listener is for measuring: unlike the runner it skips nothing, and it may let gradients through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor, nn

from ditcache_rl.bench import Drawn
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument import is_attached
from ditcache_rl.instrument.blocks import Stack, denoisers_of, find_blocks, find_stack, split_spans
from ditcache_rl.instrument.branches import CallReader
from ditcache_rl.instrument.clock import Clock
from ditcache_rl.instrument.probe import complete_stack
from ditcache_rl.instrument.taps import Tap, install, release
from ditcache_rl.types import Floats

#: What a block is made of, by how the names of its children start. Both kinds are sites of their
#: own, numbered block by block.
SUBLAYERS = {
    "attention": ("attn", "attention", "self_attn"),
    "feed-forward": ("ff", "mlp", "feed_forward", "proj_mlp"),
}

CaseT = TypeVar("CaseT", contravariant=True)


class Sampler(Protocol[CaseT]):
    """What draws images of cases; `bench.Board` is one."""

    pipe: Any
    steps: int
    sites: int

    def draw(self, cases: Sequence[CaseT]) -> Drawn:
        """Call the pipeline as it is."""
        ...


class Visit(NamedTuple):
    """One part of a site in one call of a denoiser."""

    step: int
    site: int
    call: int
    """Number of the call within its step: sequential guidance has several."""
    part: tuple[int, int]
    """Denoiser, and number of the part in it: a site has several where its streams change."""


class SiteListener:
    """Hears what every site takes in and gives out while a pipeline runs.

    What it hears goes to `around`, `enter` and `leave`, which subclasses override. Entering taps
    the denoisers, leaving removes everything.

    Args:
        pipe: A diffusers pipeline that nothing is attached to.
        sites: Parts of each block stack, or sub-layers of all its blocks.
        sublayers: Listen to attentions and feed-forwards in place of runs of blocks.

    Raises:
        StateError: If the pipeline is attached.
        UnsupportedModelError: If it has no denoiser; while it runs, if its blocks can't be told.
    """

    def __init__(self, pipe: Any, sites: int, *, sublayers: bool = False) -> None:
        if is_attached(pipe):
            raise StateError(
                "expected a plain pipeline to listen to, received one that is attached"
            )
        self._clock = Clock(pipe.scheduler)
        self._denoisers = denoisers_of(pipe)
        self._sublayers = sublayers
        self._sites = sites
        self._taps: list[Tap] = []
        self._handles: list[Any] = []
        self._entered: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._place = self._last = (-1, 0)

    def around(
        self, place: tuple[int, int], plain: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run one call of a denoiser.

        Args:
            place: Step, and number of the call within it.
            plain: Runs the denoiser.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        return self.run(place, plain, args, kwargs)

    def enter(self, visit: Visit) -> None:
        """Hear that a span begins."""

    def leave(
        self, visit: Visit, starts: Sequence[Any], ends: Sequence[Any]
    ) -> Sequence[Any] | None:
        """Hear what a span made of its streams; returns other ends, or None to leave them."""
        return None

    def run(self, place: tuple[int, int], plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a denoiser as the call at a place."""
        self._place = place
        return plain(*args, **kwargs)

    def __enter__(self) -> Self:
        """Tap the denoisers; their blocks follow at the first call, which may tell them."""
        for number, denoiser in enumerate(self._denoisers.values()):
            self._taps.append(install(denoiser, partial(_ListenTap, self, number)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore; calling it twice is harmless."""
        while self._handles:
            self._handles.pop().remove()
        while self._taps:
            release(self._taps.pop())

    def hear(self, timestep: Any, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Number a call of a denoiser, and run it."""
        step, began = self._clock.read(timestep)
        again = step == self._last[0] and not began
        self._last = (step, self._last[1] + 1 if again else 0)
        return self.around(self._last, plain, args, kwargs)

    def hook(self, number: int, denoiser: nn.Module, stack: Stack) -> None:
        """Hook the first and the last module of every part of a denoiser."""
        parts = _sublayers(denoiser, stack) if self._sublayers else _spans(stack, self._sites)
        for index, part in enumerate(parts):
            place = number, index
            self._handles.append(
                part.first.register_forward_pre_hook(
                    self._entering(place, part), with_kwargs=True, prepend=True
                )
            )
            self._handles.append(
                part.last.register_forward_hook(self._leaving(place, part), with_kwargs=True)
            )

    def _entering(self, place: tuple[int, int], part: _Part) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._entered[place] = part.read(args, kwargs)
            self.enter(self._visit(place, part))

        return hook

    def _leaving(self, place: tuple[int, int], part: _Part) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            ends = part.unpack(output)
            starts = self._entered.pop(place) or (None,) * len(ends)
            changed = self.leave(self._visit(place, part), starts, ends)
            return None if changed is None else part.pack(changed, output)

        return hook

    def _visit(self, place: tuple[int, int], part: _Part) -> Visit:
        step, call = self._place
        return Visit(step, part.site, call, place)


class _ListenTap(Tap):
    """Stands in for a denoiser that is listened to."""

    def __init__(self, listener: SiteListener, number: int, denoiser: nn.Module) -> None:
        super().__init__(denoiser)
        self._listener, self._number = listener, number
        self._reader = CallReader(denoiser)
        self._hooked = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand the call to the listener, the first one after it has told the blocks."""
        if not self._hooked:
            stack = find_stack(self.module)
            if stack is None or None in stack.signatures:
                run = partial(self.plain, *args, **kwargs)
                stack = complete_stack(self.module, stack, run).stack
            self._listener.hook(self._number, self.module, stack)
            self._hooked = True
        timestep = self._reader.read(args, kwargs).timestep
        return self._listener.hear(timestep, self.plain, args, kwargs)


class _Part(NamedTuple):
    """Modules that run one after the other, and how they take and return their streams."""

    site: int
    first: nn.Module
    last: nn.Module
    read: Callable[[Any, Any], tuple[Any, ...]]
    """Streams at the entrance; empty where what comes out is kept whole."""
    unpack: Callable[[Any], tuple[Any, ...]]
    pack: Callable[[Sequence[Any], Any], Any]


def _spans(stack: Stack, sites: int) -> list[_Part]:
    """Return the spans of sites that are runs of blocks."""
    parts: list[_Part] = []
    for span in split_spans(stack, sites):
        start, stop = span.blocks.start, span.blocks.stop - 1
        enter, leave = stack.signatures[start], stack.signatures[stop]
        assert enter is not None
        assert leave is not None
        first, last = stack.blocks[start], stack.blocks[stop]
        parts.append(_Part(span.site, first, last, enter.read, leave.unpack, leave.pack))
    return parts


def _sublayers(denoiser: nn.Module, stack: Stack) -> list[_Part]:
    """Return the attentions and feed-forwards of all blocks, which sit between gates and norms.

    Raises:
        UnsupportedModelError: If a block has none of either kind.
    """
    parts: list[_Part] = []
    for number, block in enumerate(stack.blocks):
        for kind, names in enumerate(SUBLAYERS.values()):
            found = [child for name, child in block.named_children() if name.startswith(names)]
            if not found:
                children = ", ".join(name for name, _ in block.named_children())
                raise UnsupportedModelError(
                    f"expected block {number} of {type(denoiser).__name__} to have a sub-layer "
                    f"named {' or '.join(names)}.., received {children}; analyze whole blocks"
                )
            site = number * len(SUBLAYERS) + kind
            parts += [_Part(site, child, child, _nothing, _unpack, _pack) for child in found]
    return parts


def _nothing(args: Any, kwargs: Any) -> tuple[Any, ...]:
    return ()


def _unpack(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def _pack(streams: Sequence[Any], output: Any) -> Any:
    return tuple(streams) if isinstance(output, tuple) else streams[0]


def count_sites(sampler: Sampler[Any], *, sublayers: bool) -> int:
    """Return the sites of a pipeline: those of the sampler, or its sub-layers."""
    if not sublayers:
        return sampler.sites
    stacks = [find_blocks(denoiser) for denoiser in denoisers_of(sampler.pipe).values()]
    return len(SUBLAYERS) * max(map(len, stacks))


def residual_of(starts: Sequence[Any], ends: Sequence[Any]) -> list[Tensor]:
    """Return what a cache would keep of a span: what it added to each stream, detached.

    A stream that changed its shape, as in the deep branch of a U-Net, is kept whole.
    """
    return [
        (end - start if getattr(start, "shape", None) == end.shape else end).detach()
        for start, end in zip(starts, ends, strict=True)
        if isinstance(end, Tensor)
    ]


def per_row(values: Tensor, rows: int) -> Floats:
    """Add up what belongs to one sample, whose guidance branches lie one after the other: (rows,).

    Args:
        values: (branches * rows,).
        rows: Samples.
    """
    return np.asarray(values.detach().double().reshape(-1, rows).sum(0).cpu())


def batches(cases: Sequence[Any], rows: int) -> list[Sequence[Any]]:
    """Cut cases into batches of at most `rows`."""
    return [cases[start : start + rows] for start in range(0, len(cases), rows)]
