"""Requests whose first call of the denoiser has other shapes than the later ones.

So do edits that put reference tokens beside the latents, or fill a KV cache with them: what a
controller remembers of the first step can't be compared with the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.rows import Unit
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, EasyCache, FBCache
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.taps import Tap, install, release

#: Distance that no step reaches: what may be reused is.
_FAR = 1e6


class FirstCall(Tap):
    """Stands before everybody, and hears the first call of a denoiser."""

    depth = -1

    def __init__(self, larger: FirstCall | None, module: nn.Module) -> None:
        super().__init__(module)
        self._larger = larger
        self.args: tuple[Any, ...] | None = None
        self.kwargs: dict[str, Any] = {}
        self.output: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as it is, or with the arguments of a larger one, whose output is nobody's."""
        if self.args is not None:
            return self.plain(*args, **kwargs)
        self.args, self.kwargs = args, kwargs
        if self._larger is not None and self._larger.args is not None:
            more = [_larger(*pair) for pair in zip(args, self._larger.args, strict=True)]
            named = {k: _larger(v, self._larger.kwargs.get(k, v)) for k, v in kwargs.items()}
            self.plain(*more, **named)
            return self._larger.output
        self.output = self.plain(*args, **kwargs)
        return self.output


def memory_follows_shapes(unit: Unit) -> bool:
    """Tell whether what watches its inputs computes where they can't be compared."""
    with _heard(unit, {}) as large:
        unit.draw([1], True)
    with _heard(unit, {}) as small:
        unit.draw([1], False)
    for name, first in large.items():
        first.output = small[name].output
    with _heard(unit, large):
        plain = unit.draw([1], False)
    drawn = []
    for threshold in (0.0, _FAR):
        with _attached(unit, threshold), _heard(unit, large):
            drawn.append(unit.draw([1], False))
    return torch.equal(drawn[0], plain) and bool(torch.isfinite(drawn[1]).all())


@contextmanager
def _heard(unit: Unit, larger: dict[str, FirstCall]) -> Iterator[dict[str, FirstCall]]:
    """Hear the first call of every denoiser, and give it the arguments of larger ones."""
    taps = {
        name: install(denoiser, partial(FirstCall, larger.get(name)))
        for name, denoiser in denoisers_of(unit.pipe).items()
    }
    try:
        yield taps
    finally:
        for tap in taps.values():
            release(tap)


def _attached(unit: Unit, threshold: float) -> BlockRunner:
    """Attach what looks at the first block, or at the latents where no block can be probed."""
    probing: Controller = FBCache(threshold)
    try:
        return BlockRunner(unit.pipe, probing, TieredCache())
    except ConfigError:
        return BlockRunner(unit.pipe, EasyCache(threshold, start=0.0, end=1.0), TieredCache())


def _larger(given: Any, larger: Any) -> Any:
    """Return what a larger call was given, where that has another shape."""
    same = isinstance(given, Tensor) and isinstance(larger, Tensor) and given.shape == larger.shape
    return given if same else larger
