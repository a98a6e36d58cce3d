"""How one runner sees one denoiser: its blocks, the spans of its sites, the role of each block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument.blocks import Span, Stack, find_stack, split_sites, split_spans
from ditcache_rl.instrument.branches import CallReader
from ditcache_rl.instrument.coarse import CoarseSteps
from ditcache_rl.instrument.execute import BlockTap, Role, run_block
from ditcache_rl.instrument.probe import complete_stack
from ditcache_rl.instrument.request import current_request
from ditcache_rl.instrument.taps import Tap, install, is_compiled, release

#: Cache entries of the denoisers of one pipeline are numbered apart by this.
_SPANS_PER_DENOISER = 1000


class Layout:
    """The blocks of a denoiser under one runner.

    Args:
        name: Component name of the denoiser.
        denoiser: The model.
        key: Its number in the pipeline.
        sites: Parts of the stack.
        probe_blocks: Leading blocks that always compute.
        blocks: Names of its block lists, where the user gives them.
        coarse: Its first steps on a coarser grid; None for none.

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
        coarse: CoarseSteps | None = None,
    ) -> None:
        self.name, self.denoiser, self.key = name, denoiser, key
        self.coarse = coarse
        self.first_span = key * _SPANS_PER_DENOISER
        self.reader = CallReader(denoiser)
        self.roles: dict[Tap, Role] = {}
        #: The spans of the sites in the order in which they run, without that of the probe.
        self.spans: list[Span] = []
        self.site_heads: list[Span] = []
        self.stack: Stack | None = find_stack(denoiser, blocks)
        self._sites, self._probe_blocks = sites, probe_blocks
        self._lock = threading.Lock()
        self._taps: list[Tap] = []
        self._ready = self.stack is not None and None not in self.stack.signatures
        if self.stack is not None and not self.stack.deep:
            split_sites(len(self.stack.blocks), sites, probe_blocks)
        if self._ready:
            assert self.stack is not None
            self._all_spans = split_spans(self.stack, sites, probe_blocks)

    def install(self) -> None:
        """Tap the denoiser, and its blocks as far as they are known.

        Raises:
            UnsupportedModelError: If the denoiser is compiled as a whole.
            StateError: If it recomputes its blocks in the backward pass.
        """
        self.check()
        self._taps.append(install(self.denoiser, DenoiserTap))
        if self._ready:
            self._install_blocks()

    def remove(self) -> None:
        """Give all taps up."""
        while self._taps:
            release(self._taps.pop())
        self.roles = {}

    def check(self) -> None:
        """Refuse what decisions can't be taken in; errors are those of `install`."""
        import torch

        if isinstance(self.denoiser, torch._dynamo.OptimizedModule) or is_compiled(self.denoiser):
            raise UnsupportedModelError(
                f"expected a {self.name} whose blocks are compiled one by one, received one that "
                f"is compiled as a whole; use pipe.{self.name}.compile_repeated_blocks()"
            )
        if getattr(self.denoiser, "gradient_checkpointing", False):
            raise StateError(
                f"expected a {self.name} without gradient checkpointing, which would run its "
                f"blocks a second time; call pipe.{self.name}.disable_gradient_checkpointing()"
            )

    def complete(self, run: Callable[[], Any]) -> None:
        """Watch one forward pass if the blocks are not known yet.

        Args:
            run: Runs the denoiser as it is.
        """
        if self._ready:
            return
        with self._lock:
            if self._ready:
                return
            self.stack = complete_stack(self.denoiser, self.stack, run)
            self._all_spans = split_spans(self.stack, self._sites, self._probe_blocks)
            self._install_blocks()
            self._ready = True

    def _install_blocks(self) -> None:
        assert self.stack is not None
        roles: dict[Tap, Role] = {}
        heads: dict[int, Span] = {}
        for span in self._all_spans:
            if span.site >= 0:
                heads.setdefault(span.site, span)
            for index in span.blocks:
                tap = install(self.stack.blocks[index], BlockTap)
                self._taps.append(tap)
                signature = self.stack.signatures[index]
                assert signature is not None
                roles[tap] = Role(
                    span,
                    signature,
                    index == span.blocks.stop - 1,
                    self.stack.deep,
                    self.stack.blocks[0],
                )
        self.spans = [span for span in self._all_spans if span.site >= 0]
        self.site_heads = list(heads.values())
        self.roles = roles


class DenoiserTap(Tap):
    """Stands in for a denoiser; outside of a request it is exactly as it was."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._as_it_is, self.plain = self.plain, self._compute

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, at the first steps of a request on a coarser grid if it is asked for."""
        request = current_request()
        layout = None if request is None else request.layouts.get(self)
        if request is None or layout is None or layout.coarse is None:
            return self._as_it_is(*args, **kwargs)
        if not 0 <= request.step < layout.coarse.steps:
            return self._as_it_is(*args, **kwargs)
        return layout.coarse.run(self._as_it_is, args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tell the request when a call begins and what it returned."""
        request = current_request()
        layout = None if request is None else request.layouts.get(self)
        if request is None or layout is None:
            return self.plain(*args, **kwargs)
        layout.complete(lambda: self.plain(*args, **kwargs))
        request.begin_call(layout, layout.reader.read(args, kwargs))
        output = None
        try:
            if request.off:
                output = self.plain(*args, **kwargs)
            else:  # a denoiser may be its own only block
                output = run_block(self, request, args, kwargs)
        finally:
            request.end_call(first_tensor(output))
        return output


def first_tensor(output: Any) -> Any:
    """Return what a denoiser predicts: the first member of a tuple or of a diffusers output."""
    try:
        return output[0]
    except (TypeError, KeyError, IndexError):
        return output
