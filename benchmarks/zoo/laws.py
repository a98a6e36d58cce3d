"""What a run is, for every model: checks that `checks.examine` makes of all units.

Each compares an attached call with the same call where nothing special happens.
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
from ditcache_rl.instrument import BlockRunner, RequestLog
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
    with _fresh_scheduler(unit.pipe), _last_calls(unit) as look:
        alone, modes = _drawn(unit)
        twice, twice_modes = _drawn(unit, _twice(unit))
        found = {"passes_are_runs": torch.equal(twice, alone) and twice_modes == 2 * modes}
        with _fresh_scheduler(unit.pipe):
            looked, looked_modes = _drawn(unit, _after(unit, look))
        found["looks_begin_nothing"] = torch.equal(looked, alone) and looked_modes == modes
        names = inspect.signature(type(unit.pipe).__call__).parameters
        name = next((name for name in _CALLBACKS if name in names), None)
        if name is not None:
            heard, heard_modes = _drawn(unit, **{name: look})
            found["callbacks_are_outside"] = torch.equal(heard, alone) and heard_modes == modes
    return found


def _drawn(
    unit: Unit, call: Callable[..., Any] | None = None, **more: Any
) -> tuple[Tensor, list[Any]]:
    """Draw attached, by another `__call__` than the pipeline's own where one is given.

    Returns:
        What was drawn, and the modes of every run.
    """
    pipe, plain = unit.pipe, type(unit.pipe)
    logs: list[RequestLog] = []
    if call is not None:
        pipe.__class__ = type(plain.__name__, (plain,), {"__call__": call})
    try:
        with BlockRunner(pipe, Eager(), TieredCache(), on_finish=logs.append):
            drawn = unit.draw(_SEEDS, False, **more)
    finally:
        pipe.__class__ = plain
    return drawn, [log.modes.tolist() for log in logs]


def _twice(unit: Unit) -> Callable[..., Any]:
    """Return a call that first goes through the same steps from other noise."""
    plain: Any = type(unit.pipe)
    loop = "noise" in inspect.signature(plain.__call__).parameters

    def call(pipe: Any, **kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(_OTHER[0])
        other = {"noise": _OTHER} if loop else {"generator": generator}
        plain.__call__(pipe, **{**kwargs, **other})
        torch.manual_seed(0)  # as at the beginning of every call of a unit
        return plain.__call__(pipe, **kwargs)

    return call


def _after(unit: Unit, look: Callable[[], Any]) -> Callable[..., Any]:
    """Return a call that looks at something first."""
    plain: Any = type(unit.pipe)

    def call(pipe: Any, **kwargs: Any) -> Any:
        look()
        return plain.__call__(pipe, **kwargs)

    return call


@contextmanager
def _fresh_scheduler(pipe: Any) -> Iterator[None]:
    """Give a pipeline a scheduler that has seen no steps."""
    scheduler = pipe.scheduler
    pipe.scheduler = type(scheduler).from_config(dict(scheduler.config))
    try:
        yield
    finally:
        pipe.scheduler = scheduler


@contextmanager
def _last_calls(unit: Unit) -> Iterator[Callable[..., Any]]:
    """Give a function that makes the last call of every denoiser again, as a preview would."""
    last: dict[Any, tuple[Any, Any]] = {}
    looking = [False]

    def hear(module: Any, args: Any, kwargs: Any) -> None:
        if not looking[0]:
            last[module] = args, kwargs

    def look(*given: Any, **_: Any) -> Any:
        looking[0] = True
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for module, (args, kwargs) in last.items():
                    module(*args, **kwargs)
        finally:
            looking[0] = False
        return given[-1] if given and isinstance(given[-1], dict) else {}

    handles = [
        module.register_forward_pre_hook(hear, with_kwargs=True)
        for module in denoisers_of(unit.pipe).values()
    ]
    try:
        yield look
    finally:
        for handle in handles:
            handle.remove()
