"""Put a layout to work: tap its denoiser and its blocks, and take the taps away again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument.execute import BlockTap
from ditcache_rl.instrument.layout import Layout, Role
from ditcache_rl.instrument.probe import complete_stack
from ditcache_rl.instrument.request import current_request
from ditcache_rl.instrument.taps import Tap, install, is_compiled, release


def install_layout(layout: Layout) -> None:
    """Tap a denoiser, and its blocks as far as they are known.

    Raises:
        UnsupportedModelError: If the denoiser is compiled as a whole.
        StateError: If it recomputes its blocks in the backward pass.
    """
    check_denoiser(layout)
    layout.taps.append(install(layout.denoiser, DenoiserTap))
    if layout.ready:
        _tap_blocks(layout)


def remove_layout(layout: Layout) -> None:
    """Give all taps up."""
    while layout.taps:
        release(layout.taps.pop())
    layout.roles = {}


def check_denoiser(layout: Layout) -> None:
    """Refuse what decisions can't be taken in; errors are those of `install_layout`."""
    denoiser, name = layout.denoiser, layout.name
    if isinstance(denoiser, torch._dynamo.OptimizedModule) or is_compiled(denoiser):
        raise UnsupportedModelError(
            f"expected a {name} whose blocks are compiled one by one, received one that is "
            f"compiled as a whole; use pipe.{name}.compile_repeated_blocks()"
        )
    if getattr(denoiser, "gradient_checkpointing", False):
        raise StateError(
            f"expected a {name} without gradient checkpointing, which would run its blocks a "
            f"second time; call pipe.{name}.disable_gradient_checkpointing()"
        )


class DenoiserTap(Tap):
    """Stands in for a denoiser; outside of a request it is exactly as it was."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tell the request when a call begins and what it returned."""
        request = current_request()
        layout = None if request is None else request.layouts.get(self)
        if request is None or layout is None:
            return self.plain(*args, **kwargs)
        if not layout.ready:
            _complete(layout, lambda: self.plain(*args, **kwargs))
        request.begin_call(layout, layout.reader.read(args, kwargs))
        output = None
        try:
            output = self.plain(*args, **kwargs)
        finally:
            request.end_call(_first_tensor(output))
        return output


def _complete(layout: Layout, run: Callable[[], Any]) -> None:
    """Watch one forward pass, which tells the blocks that are not known yet, and tap them."""
    with layout.completing:
        if layout.ready:
            return
        layout.follow(complete_stack(layout.denoiser, layout.stack, run))
        _tap_blocks(layout)
        layout.ready = True


def _tap_blocks(layout: Layout) -> None:
    stack = layout.stack
    assert stack is not None
    roles: dict[Tap, Role] = {}
    for span in layout.all_spans:
        for index in span.blocks:
            tap = install(stack.blocks[index], BlockTap)
            layout.taps.append(tap)
            signature = stack.signatures[index]
            assert signature is not None
            last = index == span.blocks.stop - 1
            roles[tap] = Role(span, signature, last, stack.deep, stack.blocks[0])
    layout.roles = roles


def _first_tensor(output: Any) -> Any:
    """Return what a denoiser predicts: the first member of a tuple or of a diffusers output."""
    try:
        return output[0]
    except (TypeError, KeyError, IndexError):
        return output
