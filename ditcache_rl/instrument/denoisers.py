"""The denoisers of a pipeline under one runner, also when others take their places.

A denoiser may be replaced, its blocks may be, and compiling a block takes its tap away. Every
request looks whether everything stands where it stood, and taps what is new.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

from torch import nn

from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import denoisers_of, read_paths
from ditcache_rl.instrument.install import check_denoiser, install_layout, remove_layout
from ditcache_rl.instrument.layout import Layout
from ditcache_rl.instrument.taps import restore

_REPLACED = (
    "{} is another model than was attached, or has other blocks: it is cached as that one was, but "
    "what a policy promises was measured with that one"
)
_UNFIT = "{} can't be cached any more, and computes everything: {}"


class Denoisers:
    """Layouts of the denoisers of a pipeline, installed or not.

    Args:
        pipe: The pipeline.
        sites: Parts of each block stack.
        probe_blocks: Leading blocks that always compute.
        blocks: Where the blocks are; None to find them.

    Attributes:
        layouts: One per denoiser; for as long as requests run, also those of former ones.

    Raises:
        ConfigError: If a stack can't have that many sites, or `blocks` leads to no denoiser.
        UnsupportedModelError: If there is no denoiser, or its blocks can't be told.
    """

    def __init__(self, pipe: Any, *, sites: int, probe_blocks: int, blocks: str | None) -> None:
        self._blocks = blocks
        self._sites, self._probe_blocks = sites, probe_blocks
        self._keys = itertools.count()
        self._lock = threading.Lock()
        self._running = 0
        found = denoisers_of(pipe, blocks)
        self.layouts = [self._layout(name, denoiser) for name, denoiser in found.items()]

    def install(self) -> None:
        """Tap all; errors are those of `install_layout`."""
        try:
            for layout in self.layouts:
                install_layout(layout)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Give all taps up."""
        for layout in self.layouts:
            remove_layout(layout)

    def begin(self, pipe: Any) -> list[str]:
        """Prepare for a request; errors are those of `install_layout`, `end` follows otherwise.

        Args:
            pipe: Whose request it is: the pipeline or a copy of it.

        Returns:
            What whoever attached should know of denoisers that are not those of before.
        """
        notes: list[str] = []
        try:
            found = denoisers_of(pipe, self._blocks)
        except (ConfigError, UnsupportedModelError) as error:
            found = {}
            notes.append(_UNFIT.format("the pipeline", error))
        with self._lock:
            layouts = [self._now(name, denoiser, notes) for name, denoiser in found.items()]
            served = [layout for layout in layouts if layout is not None]
            former = [layout for layout in self.layouts if layout not in served]
            if not self._running:
                for layout in former:
                    remove_layout(layout)
                former = []
            self.layouts = [*former, *served]
            self._running += 1
        self.restore()
        return notes

    def end(self) -> None:
        """Note that a request has ended."""
        with self._lock:
            self._running -= 1

    def restore(self) -> None:
        """Put taps back that somebody has taken away by compiling what stands behind them."""
        for layout in self.layouts:
            for tap in layout.taps:
                restore(tap)

    def changes(self) -> str:
        """Look at all, and name what has changed since the last time; "" if nothing has."""
        parts = [layout.watch.changes() for layout in self.layouts]
        return ", ".join(part for part in parts if part)

    def as_before(self, *, closely: bool) -> bool:
        """Glance at all; see `ModelWatch.as_before`."""
        return all(layout.watch.as_before(closely=closely) for layout in self.layouts)

    def _now(self, name: str, denoiser: nn.Module, notes: list[str]) -> Layout | None:
        """Return the layout of a denoiser as it is now, None if it can't have one."""
        for layout in self.layouts:
            if layout.denoiser is denoiser and layout.is_current:
                check_denoiser(layout)
                return layout
        try:
            layout = self._layout(name, denoiser)
        except (ConfigError, UnsupportedModelError) as error:
            notes.append(_UNFIT.format(f"pipe.{name}", error))
            return None
        install_layout(layout)
        notes.append(_REPLACED.format(f"pipe.{name}"))
        return layout

    def _layout(self, name: str, denoiser: nn.Module) -> Layout:
        return Layout(
            name,
            denoiser,
            next(self._keys),
            sites=self._sites,
            probe_blocks=self._probe_blocks,
            blocks=read_paths(self._blocks).get(name),
        )
