"""Swap what must be swapped on a pipeline's instances, and put everything back.

The runner executes decisions and takes none; `execute` holds what a block does meanwhile.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from torch import nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument.blocks import find_blocks, signature_of, split_sites
from ditcache_rl.instrument.execute import PROBE, BlockRun
from ditcache_rl.instrument.fingerprint import Fingerprint, ModelWatch, changed_parts
from ditcache_rl.instrument.request import Request, RequestLog, current_request

_MARK = "_ditcache_rl_runner"
#: The argument of a transformer that tells its guidance branches apart.
_BRANCH = "encoder_hidden_states"


class BlockRunner:
    """Run every call of a pipeline as a request under a controller, for as long as it is entered.

    Each request works on a shallow copy of the controller, so that one runner serves many threads.

    Args:
        pipe: A diffusers pipeline with a `transformer` and a `scheduler`. It is used as it is: its
            instances are changed on entering and restored on leaving, its classes never.
        controller: Decides; its `probe_blocks` are always computed.
        cache: Where residuals are kept.
        sites: Parts of the block stack that are cached separately.
        on_finish: Called with the log of every request, also of one that failed.
    """

    def __init__(
        self,
        pipe: Any,
        controller: Controller,
        cache: TieredCache,
        *,
        sites: int = 1,
        on_finish: Callable[[RequestLog], None] | None = None,
    ) -> None:
        self._pipe = pipe
        self._controller = controller
        self._cache = cache
        self._on_finish = on_finish
        self._denoiser = denoiser_of(pipe)
        self._blocks = find_blocks(self._denoiser)
        self._sites = split_sites(len(self._blocks), sites, controller.probe_blocks)
        self._watch = ModelWatch(self._denoiser)
        self._seen: Fingerprint | None = None
        self._class: type | None = None
        self._before: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> Self:
        """Install; raises `StateError` if the pipeline runs under a runner already."""
        if hasattr(self._denoiser, _MARK):
            raise StateError(
                "expected a plain pipeline, received one that is attached already; detach it first"
            )
        signatures = [signature_of(block) for block in self._blocks]
        self._denoiser.__dict__[_MARK] = self
        plain_call = self._denoiser.forward
        parameters = [*inspect.signature(type(self._denoiser).forward).parameters][1:]
        place = parameters.index(_BRANCH) if _BRANCH in parameters else len(parameters)
        self._swap(self._denoiser, lambda *args, **kwargs: _call(plain_call, place, args, kwargs))
        for site, blocks in (
            (PROBE, range(self._controller.probe_blocks)),
            *enumerate(self._sites),
        ):
            for index in blocks:
                block = self._blocks[index]
                run = BlockRun(
                    block,
                    signatures[index],
                    site=site,
                    first=index == blocks.start,
                    last=index == blocks.stop - 1,
                    stack_head=self._blocks[0],
                )
                self._swap(block, run)
        self._class = type(self._pipe)
        self._pipe.__class__ = self._request_class(self._class)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore; calling it twice is harmless."""
        if self._class is None:
            return
        self._pipe.__class__, self._class = self._class, None
        for module, forward in self._before:
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        self._before.clear()
        self._denoiser.__dict__.pop(_MARK, None)

    def _check_model(self, scheduler: Any, when: str) -> None:
        """Empty the cache if the model is no longer what its entries were computed with."""
        before, self._seen = self._seen, self._watch.look(scheduler)
        changed = "" if before is None else changed_parts(before, self._seen)
        if changed:
            self._cache.empty(f"the model changed {when} a request: {changed}")

    def _swap(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Give an instance another forward, and remember one that is not of its class.

        Hooks of diffusers and accelerate (offloading, quantization) lie in such a forward.
        """
        self._before.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _request_class(self, plain: type) -> type:
        """Derive a class whose `__call__` is a request, and that looks like the plain one."""
        runner = self

        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            controller = copy.copy(runner._controller)
            request = Request(controller, runner._cache, pipe.scheduler, len(runner._sites))
            runner._check_model(pipe.scheduler, "before")
            try:
                with request.current():
                    return plain.__call__(pipe, *args, **kwargs)
            finally:
                runner._check_model(pipe.scheduler, "during")
                if runner._on_finish is not None and request.log is not None:
                    runner._on_finish(request.log)

        call.__doc__ = plain.__call__.__doc__
        body = {"__call__": call, "__module__": plain.__module__, "__doc__": plain.__doc__}
        return type(plain.__name__, (plain,), body)


def is_attached(pipe: Any) -> bool:
    """Tell whether a pipeline runs under a runner now."""
    return hasattr(getattr(pipe, "transformer", None), _MARK)


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the transformer of a pipeline.

    Raises:
        UnsupportedModelError: If there is none.
    """
    denoiser = getattr(pipe, "transformer", None)
    if not isinstance(denoiser, nn.Module):
        raise UnsupportedModelError(
            f"expected a diffusers pipeline with a `transformer`, received {type(pipe).__name__}"
        )
    return denoiser


def _call(
    plain: Callable[..., Any], place: int, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """Run the transformer; outside of a request exactly as it was."""
    request = current_request()
    if request is None:
        return plain(*args, **kwargs)
    latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    conditioning = args[place] if place < len(args) else kwargs.get(_BRANCH)
    request.begin_call(latents, conditioning)
    output = plain(*args, **kwargs)
    request.end_call(output[0])
    return output
