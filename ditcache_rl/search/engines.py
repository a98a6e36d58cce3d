"""Search the computed steps of a schedule again under the cache of another engine.

What an engine puts in the place of skipped steps is its own way, so other steps may be the best
there. Caches whose packages are at hand run themselves, on the file that is exported for them;
SGLang's is imitated.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ditcache_rl.bench import Board, Case
from ditcache_rl.instrument.branches import CallReader
from ditcache_rl.instrument.clock import Clock, Reading
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.instrument.stack_taps import StackTap, known_blocks, tapped_stack
from ditcache_rl.machine import require
from ditcache_rl.policy.engines import (
    ALWAYS,
    check_steps,
    export_cache_dit,
    export_mag_cache,
)
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.search.climb import climb_paths

#: Puts the cache of an engine on a pipeline, so that it computes the steps of a schedule; gets how
#: often the denoiser is called in a step, as `calls_of_step` counts.
UnderEngine = Callable[[Any, Schedule, Set[int]], AbstractContextManager[None]]


class EngineSearch(NamedTuple):
    """What was found, and what the engine loses; PSNR in dB, mean over the cases."""

    schedule: Schedule
    """With the computed steps that are best there."""
    own_db: float
    """Of the schedule that was given, under our runner."""
    same_db: float
    """Of its computed steps under the engine."""
    found_db: float
    """Of those that are best there."""
    calls: Set[int]
    """How often the denoiser is called in a step; several numbers where steps differ."""


def search_under(
    engine: UnderEngine,
    board: Board,
    cases: Sequence[Case],
    schedule: Schedule,
    *,
    evaluations: int,
    rng: np.random.Generator,
    always: Sequence[int] = (0,),
    on_path: Callable[[], None] | None = None,
) -> EngineSearch:
    """Climb to the computed steps that are best under an engine, as many as a schedule has.

    Args:
        engine: Where they are run.
        board: Of the schedule.
        cases: What is drawn.
        schedule: Where to start; its way to fill steps stands for the engine's.
        evaluations: Sets of steps to try, each of them on all cases.
        rng: Orders the moves.
        always: Steps that the engine computes whatever it is told.
        on_path: Hears that a set was tried.

    Raises:
        ConfigError: If the board has fewer steps than the engine always computes, the engine is not
            installed, or it can't tell the calls of a step.
        UnsupportedModelError: If the engine can't be put on the pipeline.
    """
    check_steps(board.steps, always)
    first = tuple(sorted({*schedule.path, *always}))
    with engine(board.pipe, Schedule.on_path(first, board.steps), {1}):
        pass  # what it refuses, it refuses before anything is drawn
    calls = calls_of_step(board, cases[0])
    board.prepare(cases)

    def quality(path: ComputePath) -> float:
        if not set(always) <= set(path):
            return -np.inf
        with engine(board.pipe, Schedule.on_path(path, board.steps), calls):
            images = [
                board.draw(cases[start : start + board.rows]).images
                for start in range(0, len(cases), board.rows)
            ]
        if on_path is not None:
            on_path()
        return float(board.judge(torch.cat(images), cases).psnr_db.mean())

    own = board.score(cases, [schedule] * len(cases)).psnr_db.mean()
    known: dict[ComputePath, float] = {}

    def errors(paths: Sequence[ComputePath]) -> list[float]:
        known.update((path, quality(path)) for path in paths)
        return [-known[path] for path in paths]

    best = climb_paths(errors, [first], board.steps, evaluations=evaluations, rng=rng)
    found = Schedule.on_path(best, board.steps)
    return EngineSearch(found, float(own), known[first], known[best], calls)


def calls_of_step(board: Board, case: Case) -> Set[int]:
    """Count how often the denoiser is called in a step: several numbers where steps differ.

    Args:
        board: Draws once.
        case: What is drawn.
    """
    heard: list[Reading] = []
    with _hearing(board.pipe, heard.append):
        board.draw([case])
    runs = accumulate(int(reading.began) for reading in heard)
    steps = [reading.step for reading in heard]
    return frozenset(Counter(zip(runs, steps, strict=True)).values())


@contextmanager
def under_cache_dit(pipe: Any, schedule: Schedule, calls: Set[int]) -> Iterator[None]:
    """Run cache-dit on what is exported for it."""
    require("peers", "cache_dit")
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # it tells of every block otherwise
    cache_dit: Any = importlib.import_module("cache_dit")
    with _file_of(partial(export_cache_dit, calls=calls), schedule) as file:
        config = cache_dit.load_configs(str(file))
    cache_dit.enable_cache(pipe, **config)
    try:
        yield
    finally:
        cache_dit.disable_cache(pipe)


@contextmanager
def under_mag_cache(pipe: Any, schedule: Schedule, calls: Set[int]) -> Iterator[None]:
    """Run diffusers' MagCache on what is exported for it."""
    from diffusers.hooks import MagCacheConfig

    with _file_of(export_mag_cache, schedule) as file:
        config = MagCacheConfig(**json.loads(file.read_text(encoding="utf-8")))
    denoiser: Any = denoiser_of(pipe)
    denoiser.enable_cache(config)
    try:
        yield
    finally:
        denoiser.disable_cache()


@contextmanager
def under_dpcache(pipe: Any, schedule: Schedule, calls: Set[int]) -> Iterator[None]:
    """Do what SGLang's DPCache does: lines by step through what the last block returned.

    In the precision of the model; SGLang's is bfloat16.

    Source: `predict_feature` of `runtime/cache/dpcache.py` of SGLang's multimodal generation.
    """
    blocks = known_blocks(denoiser_of(pipe), "export the steps without a search")
    anchors = _Anchors(schedule.path)
    with _hearing(pipe, anchors.begin), tapped_stack(blocks, _FeatureTap, anchors):
        yield


#: Engines by the form that is exported for them, and the steps that each always computes.
ENGINES: Mapping[str, tuple[UnderEngine, Sequence[int]]] = {
    "cache-dit": (under_cache_dit, (0,)),
    "mag-cache": (under_mag_cache, (0,)),
    "dpcache": (under_dpcache, ALWAYS),
}


@contextmanager
def _file_of(export: Callable[[Schedule, Path], object], schedule: Schedule) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        export(schedule, Path(folder) / "cache")
        yield Path(folder) / "cache"


@contextmanager
def _hearing(pipe: Any, hear: Callable[[Reading], None]) -> Iterator[None]:
    """Tell where every call of the denoiser is."""
    denoiser, clock = denoiser_of(pipe), Clock(pipe.scheduler)
    reader = CallReader(denoiser)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        hear(clock.read(reader.read(args, kwargs).timestep))

    handle = denoiser.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Anchors:
    """What the last block returned at the last two computed steps, for each call of a step."""

    def __init__(self, path: ComputePath) -> None:
        self._path = path
        self._known: dict[int, list[tuple[int, tuple[Tensor, ...]]]] = {}
        self._step, self._call = -1, 0
        #: The call under way computes.
        self.computes = True

    def begin(self, reading: Reading) -> None:
        """Note a call of the denoiser."""
        step, began = reading
        if began:
            self._known.clear()
        self._call = self._call + 1 if step == self._step and not began else 0
        self._step = step
        self.computes = step in self._path

    def record(self, streams: tuple[Tensor, ...]) -> None:
        """Remember a computed step."""
        known = self._known.setdefault(self._call, [])
        self._known[self._call] = [*known[-1:], (self._step, streams)]

    def predict(self) -> tuple[Tensor, ...]:
        """Return what stands for a step that is left out."""
        (before, older), (newest, last) = self._known[self._call]
        share = (self._step - newest) / (newest - before)
        return tuple([b + (b - a) * share for a, b in zip(older, last, strict=True)])


class _FeatureTap(StackTap[_Anchors]):
    """Stands in for one block."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, pass through, or hand out the line."""
        anchors, signature = self._owner, self._signature
        if anchors.computes:
            output = self.plain(*args, **kwargs)
            if self._last:
                anchors.record(signature.unpack(output))
            return output
        return signature.pack(anchors.predict() if self._last else signature.read(args, kwargs))
