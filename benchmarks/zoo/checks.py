"""What must hold for every model, whatever it is: checks that the tests and the benchmark share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.zoo.copies import copies_plain
from benchmarks.zoo.denoisers import DENOISERS
from benchmarks.zoo.laws import run_laws
from benchmarks.zoo.rows import ROUNDING, PerRow, Unit, blind, rounding
from benchmarks.zoo.shapes import memory_follows_shapes
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.types import Mode

#: Modes of the steps, the same in every site; each kind of estimate occurs.
SCHEDULE = (0, 1, 0, 2, 0, 3)
STEPS = len(SCHEDULE)


class Interrupted(Exception):
    """Comes from outside in the middle of a call."""


class Examined(NamedTuple):
    """What a unit is made of, and which checks it passed."""

    denoisers: str
    stacks: str
    spans: int
    branches: int
    """Most guidance branches of a step."""
    row_rounding: float | None
    """See `rounding`; None where it draws one sample at a time."""
    checks: dict[str, bool]

    @property
    def passed(self) -> bool:
        """All checks hold."""
        return all(self.checks.values())


def examine(unit: Unit, *, seed: int = 0) -> Examined:
    """Run all checks on a unit; what goes wrong inside of one is its exception."""
    pipe, seeds = unit.pipe, [1]
    with counted(pipe) as plain_calls:
        plain = unit.draw(seeds, False)
    before = fingerprint(pipe)  # a call leaves attributes of its own
    with runner(pipe, AllCompute(), TieredCache()), counted(pipe) as watched_calls:
        computed = unit.draw(seeds, False)
    checks = {
        "all_compute_identical": bool(torch.equal(computed, plain)),
        "no_trace": fingerprint(pipe) == before,
    }

    cache, logs = TieredCache(), list[RequestLog]()
    with runner(pipe, scheduled(logs, unit), cache, on_finish=logs.append) as attached:
        first = unit.draw(seeds, False)  # a model that no table knows is watched
        with counted(pipe) as calls:
            cached = unit.draw(seeds, False)
        log = logs[-1]
        checks["watching_has_no_effects"] = watched_calls.calls == plain_calls.calls and (
            torch.equal(first, cached)
        )
        checks["executed_equals_schedule"] = executes(log, calls, plain_calls, attached)
        checks["reuse_changes"] = not torch.equal(cached, plain)
        checks["finite"] = bool(torch.isfinite(cached).all())
        with interrupted(pipe, after=1 + seed % (STEPS - 2)):
            try:
                unit.draw(seeds, False)
                stopped = False
            except Interrupted:
                stopped = True
        checks["nothing_left_after_exception"] = stopped and cache.used_bytes == 0
        checks["clean_after_exception"] = torch.equal(unit.draw(seeds, False), cached)
        other = [2, 3] if unit.rows else [2]
        second = unit.draw(other, True)
        findings = describe(attached)
    with runner(pipe, scheduled(logs, unit), TieredCache(), on_finish=logs.append):
        fresh = unit.draw(other, True)
    checks["second_size"] = bool(torch.equal(second, fresh) and torch.isfinite(second).all())
    checks["memory_follows_shapes"] = memory_follows_shapes(unit)
    checks |= run_laws(unit)
    checks["identical_after_leaving"] = bool(torch.equal(unit.draw(seeds, False), plain))
    checks["copies_plain"] = copies_plain(unit, SCHEDULE, seeds, plain)
    checks["no_trace"] = checks["no_trace"] and fingerprint(pipe) == before
    share = None
    if unit.rows:
        share = rounding(unit)
        checks["rows_as_alone"] = share <= ROUNDING
        checks["rows_see_no_others"] = blind(unit)
    return Examined(*findings, log.branches, share, checks)


def scheduled(logs: list[RequestLog], unit: Unit) -> Any:
    """Return the controller of the schedule."""
    return PerRow([SCHEDULE])


def runner(pipe: Any, controller: Any, cache: TieredCache, **options: Any) -> BlockRunner:
    """Attach with one site."""
    return BlockRunner(pipe, controller, cache, **options)


def describe(attached: BlockRunner) -> tuple[str, str, int]:
    """Name the denoisers, their stacks, and the spans of one site."""
    classes, stacks, spans = [], [], 0
    for layout in attached.layouts:
        if layout.stack is None:
            continue
        classes.append(type(layout.denoiser).__name__)
        counts = len(layout.stack.blocks)
        stacks.append(f"{' + '.join(layout.stack.names)} ({counts})")
        spans = max(spans, len({role.span.index for role in layout.roles.values()}))
    return ", ".join(dict.fromkeys(classes)), ", ".join(dict.fromkeys(stacks)), spans


class Calls(NamedTuple):
    """How often each module of a stack computed."""

    modules: list[nn.Module]
    calls: list[int]


@contextmanager
def counted(pipe: Any) -> Iterator[Calls]:
    """Count the calls of every direct member of a module list, and of denoisers' own children."""
    modules = [
        module
        for denoiser in denoisers_of(pipe).values()
        for child in denoiser.children()
        for module in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    count = Calls(modules, [0] * len(modules))

    def counter(index: int) -> Any:
        def hook(*_: Any) -> None:
            count.calls[index] += 1

        return hook

    handles = [m.register_forward_pre_hook(counter(i)) for i, m in enumerate(modules)]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def executes(log: RequestLog, calls: Calls, plain: Calls, attached: BlockRunner) -> bool:
    """Tell whether every block ran at exactly the steps at which its site computes."""
    ran = [step for step in range(len(log.modes)) if log.modes[step, 0, 0] >= 0]
    share = sum(log.modes[step, 0, 0] == Mode.COMPUTE for step in ran) / max(1, len(ran))
    cached = {
        module for layout in attached.layouts if layout.stack for module in layout.stack.blocks
    }
    asked = PerRow([SCHEDULE])
    asked.reset(log.run)
    wished = asked.modes[ran, 0, 0]
    if len(attached.layouts) == 1 and not _follows(log.modes[ran, 0, 0], wished):
        return False
    if len(attached.layouts) > 1:  # a denoiser that takes over begins without a history
        share = float("nan")
    for module, count, full in zip(plain.modules, calls.calls, plain.calls, strict=True):
        if module not in cached:
            if count != full:
                return False
        elif (share == share and abs(count - full * share) > 1e-6) or (
            share != share and not 0 < count <= full and full
        ):
            return False
    return 0 < sum(calls.calls) < sum(plain.calls)


def _follows(effective: Any, wished: Any) -> bool:
    """Tell whether modes are those wished for, lowered to what had been computed before."""
    computed = 0
    for mode, wish in zip(effective, wished, strict=True):
        if mode != min(wish, computed):
            return False
        computed += mode == Mode.COMPUTE
    return True


@contextmanager
def interrupted(pipe: Any, *, after: int) -> Iterator[None]:
    """Raise in a call of a denoiser, when some have gone well."""
    left = [after]

    def hook(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted

    handles = [m.register_forward_pre_hook(hook) for m in denoisers_of(pipe).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fingerprint(pipe: Any) -> list[tuple[Any, ...]]:
    """Note the class of a pipeline and every attribute and forward of its denoisers' modules."""
    modules = [
        (name, type(module), tuple(vars(module)), vars(module).get("forward"))
        for denoiser in denoisers_of(pipe).values()
        for name, module in denoiser.named_modules()
    ]
    return [("pipe", type(pipe), tuple(vars(pipe)), None), *modules]


def denoiser_unit(loop: Any) -> Unit:
    """Make a unit of a `DenoiserLoop`."""

    def draw(seeds: Sequence[int], large: bool, copy: Any = loop, **more: Any) -> Tensor:
        size = 12 if large else 8
        drawn: Tensor = copy(seeds=seeds, size=size, num_inference_steps=STEPS, **more)
        return drawn

    return Unit(loop, draw, DENOISERS[loop.name].rows)
