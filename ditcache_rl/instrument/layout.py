"""How one runner sees one denoiser: its blocks, the spans of its sites, the role of each block.

Data: `install` puts it to work.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from torch import nn

from ditcache_rl.instrument.blocks import (
    Span,
    Stack,
    find_stack,
    split_sites,
    split_spans,
)
from ditcache_rl.instrument.branches import CallReader
from ditcache_rl.instrument.fingerprint import ModelWatch, modules_of
from ditcache_rl.instrument.signatures import BlockSignature
from ditcache_rl.instrument.taps import Tap
from ditcache_rl.instrument.wrappers import holder_of

#: Cache entries of the denoisers of one pipeline are numbered apart by this.
_SPANS_PER_DENOISER = 1000


class Role(NamedTuple):
    """What a block is to a runner."""

    span: Span
    signature: BlockSignature
    last: bool
    deep: bool
    stack_head: nn.Module


class Layout:
    """The blocks of a denoiser under one runner.

    Args:
        name: Component name of the denoiser.
        denoiser: The model.
        key: Its number in the pipeline.
        sites: Parts of the stack.
        probe_blocks: Leading blocks that always compute.
        blocks: Names of its block lists, where the user gives them.

    Attributes:
        holder: What holds its block lists: itself, or what it wraps.
        stack: Its blocks, as far as they are known.
        ready: Nothing is left that only a forward pass can tell.
        all_spans: In the order in which they run.
        spans: Those of the sites, without that of the probe.
        site_heads: The first span of every site.
        taps: What is installed, that of the denoiser first.
        roles: Of the blocks, by their taps.
        completing: Held while a forward pass tells the blocks.
        watch: Notices that the model changes.

    Raises:
        ConfigError: If the stack can't have that many sites.
        UnsupportedModelError: If the blocks can't be told.
    """

    def __init__(
        self,
        name: str,
        denoiser: nn.Module,
        key: int,
        *,
        sites: int,
        probe_blocks: int,
        blocks: str | None,
    ) -> None:
        self.name, self.denoiser, self.key = name, denoiser, key
        self.holder = holder_of(denoiser)
        self.first_span = key * _SPANS_PER_DENOISER
        self.reader = CallReader(denoiser)
        self.taps: list[Tap] = []
        self.roles: dict[Tap, Role] = {}
        self.all_spans: list[Span] = []
        self.spans: list[Span] = []
        self.site_heads: list[Span] = []
        self.completing = threading.Lock()
        self.watch = ModelWatch(denoiser)
        self._sites, self._probe_blocks = sites, probe_blocks
        self.stack: Stack | None = find_stack(denoiser, blocks)
        self.ready = self.stack is not None and None not in self.stack.signatures
        if self.stack is not None and not self.stack.deep:
            split_sites(len(self.stack.blocks), sites, probe_blocks)
        if self.stack is not None and self.ready:
            self.follow(self.stack)

    def follow(self, stack: Stack) -> None:
        """Split a stack whose signatures are all known."""
        self.stack = stack
        self.all_spans = split_spans(stack, self._sites, self._probe_blocks)
        self.spans = [span for span in self.all_spans if span.site >= 0]
        heads: dict[int, Span] = {}
        for span in self.spans:
            heads.setdefault(span.site, span)
        self.site_heads = list(heads.values())

    @property
    def is_current(self) -> bool:
        """Whether its blocks are still among the modules of the denoiser."""
        return self.stack is None or set(modules_of(self.denoiser)).issuperset(self.stack.blocks)
