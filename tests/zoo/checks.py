"""What must hold for every model, whatever it is: checks that the tests and the benchmark share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, StaticSchedule
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.types import Mode
from tests.zoo.denoisers import DENOISERS

#: Modes of the steps, the same in every site; each kind of estimate occurs.
SCHEDULE = (0, 1, 0, 2, 0, 3)
STEPS = len(SCHEDULE)
#: Rows of a batch and their schedules, in the checks of every model.
_ROW_SEEDS = (4, 5, 6)
_ROW_TABLES = ((0, 1, 0, 2, 0, 1), (0, 0, 1, 1, 0, 2), (0, 0, 0, 0, 0, 0))
#: Most that `RowGaps.ratio` may be there. A residual that is computed once enters three steps, and
#: its rounding with it each time; the plain pipeline rounds anew at every step.
ROW_TOLERANCE = 3.0


class Unit(NamedTuple):
    """Something that can be run: a denoiser in a loop, or a whole pipeline.

    Attributes:
        pipe: What is attached.
        draw: Runs it: `draw(seeds, large)` returns the latents of every row.
        steps: Denoiser steps of a run: fewer than `STEPS` where a pipeline starts late, more where
            a sampler looks twice.
        rows: It can draw several samples in one call.
    """

    pipe: Any
    draw: Callable[[Sequence[int], bool], Tensor]
    rows: bool = True


class Interrupted(Exception):
    """Comes from outside in the middle of a call."""


class Findings(NamedTuple):
    """What a unit is made of, and which checks it passed."""

    denoisers: str
    stacks: str
    spans: int
    branches: int
    """Most guidance branches of a step."""
    row_difference: float | None
    """`RowGaps.ratio`; None where it draws one sample at a time."""
    checks: dict[str, bool]

    @property
    def passed(self) -> bool:
        """All checks hold."""
        return all(self.checks.values())


def examine(unit: Unit, *, seed: int = 0) -> Findings:
    """Run all checks on a unit; what goes wrong inside of one is its exception."""
    pipe, seeds = unit.pipe, [1]
    with counted(pipe) as plain_calls:
        plain = unit.draw(seeds, False)
    before = fingerprint(pipe)  # a call leaves attributes of its own
    with runner(pipe, AllCompute(), TieredCache()):
        computed = unit.draw(seeds, False)
    checks = {
        "all_compute_identical": bool(torch.equal(computed, plain)),
        "no_trace": fingerprint(pipe) == before,
    }

    cache, logs = TieredCache(), list[RequestLog]()
    with runner(pipe, scheduled(logs, unit), cache, on_finish=logs.append) as attached:
        unit.draw(seeds, False)  # a model that no table knows is watched once
        with counted(pipe) as calls:
            cached = unit.draw(seeds, False)
        log = logs[-1]
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
    checks["identical_after_leaving"] = bool(torch.equal(unit.draw(seeds, False), plain))
    checks["no_trace"] = checks["no_trace"] and fingerprint(pipe) == before
    ratio = None
    if unit.rows:
        ratio = row_gaps(unit, _ROW_SEEDS, _ROW_TABLES).ratio
        checks["rows_alone"] = ratio <= ROW_TOLERANCE
    return Findings(*findings, log.branches, ratio, checks)


class RowGaps(NamedTuple):
    """How far rows drawn in a batch are from the same rows drawn alone."""

    cached: float
    """Largest difference of the cached pipeline, each row under a schedule of its own."""
    plain: float
    """Largest difference of the uncached pipeline: see `row_gaps`."""

    @property
    def ratio(self) -> float:
        """Cached over plain; at most 1 is what the bar asks for."""
        return self.cached / self.plain


def row_gaps(unit: Unit, seeds: Sequence[int], tables: Sequence[Sequence[int]]) -> RowGaps:
    """Compare rows in a batch with the same rows alone, cached and uncached.

    A matrix product sums a batch in another order than a row, and which order depends on the size
    of the batch: the uncached pipeline itself draws a row a little differently at every size.
    Under a schedule per row, the rows that compute run as a batch of their own, so that over the
    steps every size up to that of the batch may occur. The pipeline's own difference is therefore
    that of all these sizes, and of every row in each of them. Where it is smaller than one
    rounding of the largest latent, that rounding is taken.

    Args:
        unit: What draws; it must take several rows.
        seeds: One per row.
        tables: Modes of each row, stretched to the steps.
    """
    alone = torch.cat([unit.draw([seed], False) for seed in seeds])
    plain = float(alone.abs().max()) * torch.finfo(alone.dtype).eps
    for size in range(2, len(seeds) + 1):
        for start in {min(start, len(seeds) - size) for start in range(0, len(seeds), size)}:
            drawn = unit.draw(seeds[start : start + size], False)
            plain = max(plain, float((drawn - alone[start : start + size]).abs().max()))
    with runner(unit.pipe, PerRow(tables), TieredCache()):
        together = unit.draw(seeds, False)
    single = []
    for seed, table in zip(seeds, tables, strict=True):
        with runner(unit.pipe, PerRow([table]), TieredCache()):
            single.append(unit.draw([seed], False))
    return RowGaps(float((together - torch.cat(single)).abs().max()), plain)


class PerRow:
    """A schedule per row, stretched to the steps of the request."""

    probe_blocks = 0

    def __init__(self, tables: Sequence[Sequence[int]]) -> None:
        self._tables = tables

    def reset(self, run: Any) -> None:
        """Stretch the tables."""
        tables = np.array(self._tables, dtype=np.int8)
        count = run.num_inference_steps
        picked = tables[:, np.arange(count) * tables.shape[1] // count]
        picked[:, 0] = Mode.COMPUTE
        rows = np.resize(np.arange(len(tables)), run.rows)
        modes = np.repeat(picked[rows].T[:, :, None], run.sites, axis=2)
        self._inner = StaticSchedule(modes)
        self._inner.reset(run)

    def decide(self, info: Any) -> Any:
        """Follow the tables."""
        return self._inner.decide(info)


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
    wished = asked._inner.modes[ran, 0, 0]
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

    def draw(seeds: Sequence[int], large: bool) -> Tensor:
        drawn: Tensor = loop(seeds=seeds, size=12 if large else 8, num_inference_steps=STEPS)
        return drawn

    return Unit(loop, draw, DENOISERS[loop.name].rows)
