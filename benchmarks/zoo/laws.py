"""What a run is, for every model: checks that `checks.examine` makes of all units.

Each compares a cached call with what it draws where nothing special happens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.rows import Unit
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import uniform_decision
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo

#: Arguments that take a function which is called at every step, as pipelines name them.
_CALLBACKS = ("callback_on_step_end", "callback", "on_step")
_SEEDS, _OTHER = [1], [2]


class Eager:
    """Reuses whatever it may: what is left of another run is seen at once."""

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        """Nothing belongs to a run."""

    def decide(self, info: StepInfo) -> Decision:
        """Reuse."""
        return uniform_decision(info.run, Mode.REUSE)


def run_laws(unit: Unit) -> dict[str, bool]:
    """Try what a run is; a law is left out where a pipeline calls nobody."""
    alone = _drawn(unit)
    found = {"passes_are_runs": torch.equal(_drawn(unit, _after_other_rows(unit)), alone)}
    with _last_calls(unit) as look_again:
        unit.draw(_SEEDS, False)
        found["looks_begin_nothing"] = torch.equal(_drawn(unit, _after(unit, look_again)), alone)
        names = inspect.signature(type(unit.pipe).__call__).parameters
        name = next((name for name in _CALLBACKS if name in names), None)
        if name is not None:
            drawn = _drawn(unit, **{name: look_again})
            found["callbacks_are_outside"] = torch.equal(drawn, alone)
    return found


def _drawn(unit: Unit, call: Callable[..., Any] | None = None, **more: Any) -> Tensor:
    """Draw attached, by another `__call__` than the pipeline's own where one is given."""
    pipe, plain = unit.pipe, type(unit.pipe)
    if call is not None:
        pipe.__class__ = type(plain.__name__, (plain,), {"__call__": call})
    try:
        with BlockRunner(pipe, Eager(), TieredCache()):
            return unit.draw(_SEEDS, False, **more)
    finally:
        pipe.__class__ = plain


def _after_other_rows(unit: Unit) -> Callable[..., Any]:
    """Return a call that draws other rows first, with the same steps."""
    pipe, plain = unit.pipe, type(unit.pipe)
    given: dict[str, Any] = {}

    class _Heard(Exception):
        pass

    def hear(_: Any, **kwargs: Any) -> Any:
        given.update(kwargs)
        raise _Heard

    pipe.__class__ = type(plain.__name__, (plain,), {"__call__": hear})
    try:
        unit.draw(_OTHER, False)
    except _Heard:
        pass
    finally:
        pipe.__class__ = plain

    def call(pipe: Any, **kwargs: Any) -> Any:
        plain.__call__(pipe, **given)
        torch.manual_seed(0)  # as at the beginning of every call of a unit
        return plain.__call__(pipe, **kwargs)

    return call


def _after(unit: Unit, first: Callable[[], Any]) -> Callable[..., Any]:
    """Return a call that does something else first."""
    plain = type(unit.pipe)

    def call(pipe: Any, **kwargs: Any) -> Any:
        first()
        return plain.__call__(pipe, **kwargs)

    return call


@contextmanager
def _last_calls(unit: Unit) -> Iterator[Callable[..., Any]]:
    """Give a function that makes the last call of every denoiser again, as a preview would."""
    last: dict[Any, tuple[Any, Any]] = {}
    heard = [True]

    def hear(module: Any, args: Any, kwargs: Any) -> None:
        if heard[0]:
            last[module] = args, kwargs

    def look_again(*given: Any, **_: Any) -> Any:
        heard[0] = False
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for module, (args, kwargs) in last.items():
                    module(*args, **kwargs)
        finally:
            heard[0] = True
        return given[-1] if given and isinstance(given[-1], dict) else {}

    handles = [
        module.register_forward_pre_hook(hear, with_kwargs=True)
        for module in denoisers_of(unit.pipe).values()
    ]
    try:
        yield look_again
    finally:
        for handle in handles:
            handle.remove()
