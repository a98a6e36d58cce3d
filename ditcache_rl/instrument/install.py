"""Put a layout to work: tap its denoiser and its blocks, and take the taps away again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument.context import current_request, visit
from ditcache_rl.instrument.execute import BlockTap
from ditcache_rl.instrument.layout import Layout, Role
from ditcache_rl.instrument.probe import complete_stack
from ditcache_rl.instrument.request import Request
from ditcache_rl.instrument.taps import Tap, install, is_compiled, release


def install_layout(layout: Layout) -> None:
    """Tap a denoiser, and its blocks as far as they are known.

    Raises:
        UnsupportedModelError: If the denoiser is compiled as a whole.
        StateError: If it recomputes its blocks in the backward pass, or something else caches it.
    """
    refuse_caches(layout.name, layout.denoiser)
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
    name = layout.name
    for denoiser in {layout.denoiser, layout.holder}:
        _refuse(name, *_marked_cache(name, denoiser))
        if isinstance(denoiser, torch._dynamo.OptimizedModule) or is_compiled(denoiser):
            raise UnsupportedModelError(
                f"expected a {name} whose blocks are compiled one by one, received one that is "
                f"compiled as a whole; use pipe.{name}.compile_repeated_blocks()"
            )
        _refuse_checkpointing(name, denoiser)


def _refuse_checkpointing(name: str, denoiser: nn.Module) -> None:
    if getattr(denoiser, "gradient_checkpointing", False):
        raise StateError(
            f"expected a {name} without gradient checkpointing, which would run its blocks a "
            f"second time; call pipe.{name}.disable_gradient_checkpointing()"
        )


def refuse_caches(name: str, denoiser: nn.Module) -> None:
    """Refuse a denoiser that another cache works on: each would leave out what the other reads.

    Raises:
        StateError: If there is one; the message names it and says how to take it off.
    """
    _refuse(name, *_marked_cache(name, denoiser))
    for place, module in denoiser.named_modules():
        registry = module.__dict__.get("_diffusers_hook")
        for hook in () if registry is None else registry.hooks.values():
            kind = type(hook)
            cache = kind.__module__.removeprefix("diffusers.hooks.")
            if cache.endswith(("_cache", "_broadcast")):
                where = f"pipe.{name}.{place}" if place else f"pipe.{name}"
                _refuse(name, f"{cache}, whose {kind.__name__} is on {where}", "remove its hooks")


def _marked_cache(name: str, denoiser: nn.Module) -> tuple[str, str]:
    """Name the cache that a denoiser says it is under, and how to take it off; "" without one."""
    config = getattr(denoiser, "_cache_config", None)
    if config is not None:
        return type(config).__name__.removesuffix("Config"), f"call pipe.{name}.disable_cache()"
    if getattr(denoiser, "_is_cached", False):
        return "cache-dit or ParaAttention", "call cache_dit.disable_cache(pipe)"
    if getattr(denoiser, "enable_teacache", False):
        return "TeaCache", f"give {type(denoiser).__name__} its own forward again"
    return "", ""


def _refuse(name: str, cache: str, remedy: str) -> None:
    if cache:
        raise StateError(
            f"expected a {name} that nothing else caches, received one under {cache}; take that "
            f"off first ({remedy}), or use it alone"
        )


class DenoiserTap(Tap):
    """Stands in for a denoiser; outside of a request it is exactly as it was."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tell the request when a call begins and what it returned."""
        request: Request | None = current_request()
        layout = None if request is None else request.layouts.get(self)
        if request is None or layout is None:
            return self.plain(*args, **kwargs)
        if request.layout is not None:  # somebody's hook, in the middle of another call
            with visit():
                return self.plain(*args, **kwargs)
        if not layout.ready:
            with layout.completing:
                if not layout.ready:
                    return self._watched(request, layout, args, kwargs)
        request.begin_call(layout, layout.reader.read(args, kwargs))
        output = None
        try:
            output = self.plain(*args, **kwargs)
        finally:
            request.end_call(_first_tensor(output))
        return output

    def _watched(self, request: Request, layout: Layout, args: Any, kwargs: Any) -> Any:
        """Make a call that tells the blocks which are not known yet, tap them, and catch up."""
        request.layout = layout
        try:
            # What is plain is asked late: the denoiser itself may be what is watched.
            watched = complete_stack(
                layout.denoiser, layout.stack, lambda: self.plain(*args, **kwargs)
            )
        finally:
            request.layout = None
        layout.follow(watched.stack)
        _tap_blocks(layout)
        layout.watch.expect_taps(tap.module for tap in layout.roles if tap.is_only)
        layout.ready = True
        request.begin_call(layout, layout.reader.read(args, kwargs))
        try:
            if not request.off and not all(call.untouched for call in watched.calls):
                request.leave_alone()
            if not request.off:
                taps: dict[nn.Module, Any] = {tap.module: tap for tap in layout.roles}
                for call in watched.calls:
                    taps[call.module].catch_up(request, call.args, call.kwargs, call.output)
        finally:
            request.end_call(_first_tensor(watched.output))
        return watched.output


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
