"""Run methods and reference on the same prompts and seeds, and measure times and images.

Times are wall-clock of the whole pipeline call on this machine; nothing here predicts one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench.draw import called
from ditcache_rl.cache import Caps, TieredCache
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.evaluate.methods import OURS, REFERENCE, Family, Method
from ditcache_rl.evaluate.results import Picture, Results, Round, Trace, gather
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.machine import synchronize
from ditcache_rl.metrics import Metric, metrics_at_hand
from ditcache_rl.types import UNSEEN, Progress

#: Prompts whose images are kept for the picture grid.
KEPT_PROMPTS = 6
#: Counters of a cache that say which tier served an image, and what was moved for it.
_COUNTERS = (
    *(f"{tier}_{what}" for tier in ("device", "host", "disk") for what in ("hits", "hit_bytes")),
    "misses",
    "bytes_written",
)
#: Arguments of the pipeline call that an evaluation sets itself.
_OWN_ARGUMENTS = frozenset({"prompt", "num_inference_steps", "generator", "output_type"})


_NO_CAPS = Caps()


class Shot(NamedTuple):
    """One image and what it took."""

    image: Tensor
    """(1, 3, H, W) float32 on the CPU."""
    seconds: float
    compute_share: float
    trace: Trace | None = None
    """None where no controller ran."""


class Stopwatch:
    """Draws one image at a time under a method, and times it.

    Args:
        pipe: Used as it is and left as it was.
        cache: That of every controller, empty between their requests.
        steps: `num_inference_steps` of every method that does not set its own.
        call: Further arguments of the pipeline call.
    """

    def __init__(
        self, pipe: Any, cache: TieredCache, *, steps: int, call: Mapping[str, object]
    ) -> None:
        self._pipe, self._cache, self._steps, self._call = pipe, cache, steps, call

    def shoot(self, method: Method, prompt: str, *, seed: int) -> Shot:
        """Draw one image under a method, and time the pipeline call alone."""
        steps = method.num_inference_steps or self._steps
        logs: list[RequestLog] = []
        before = asdict(self._cache.stats)
        generator = torch.Generator("cpu").manual_seed(seed)
        # Attaching is outside of the clock: a server does it once.
        with self._attached(method, logs):
            started = _clock()
            images = called(
                self._pipe,
                prompt,
                num_inference_steps=steps,
                generator=generator,
                call=self._call,
            )
            seconds = _clock() - started
        share = self._share(method, logs[0]) if logs else 1.0
        return Shot(
            images.detach().float().cpu(),
            seconds,
            share * steps / self._steps,
            self._trace(logs[0], before) if logs else None,
        )

    def _trace(self, log: RequestLog, before: Mapping[str, float]) -> Trace:
        """Tell what was done for the only row, and what the cache did since."""
        after = asdict(self._cache.stats)
        memory = {name: float(after[name] - before[name]) for name in _COUNTERS}
        return Trace(log.modes[:, 0], {"peak_bytes": float(log.peak_bytes)} | memory)

    def _attached(self, method: Method, logs: list[RequestLog]) -> AbstractContextManager[object]:
        if method.applied is not None:
            return method.applied(self._pipe)
        if method.controller is None:
            return nullcontext()
        return BlockRunner(
            self._pipe,
            method.controller,
            self._cache,
            sites=method.sites,
            blocks=method.blocks,
            on_finish=logs.append,
        )

    def _share(self, method: Method, log: RequestLog) -> float:
        """Count the probe blocks, which always compute, with the sites."""
        probe = method.controller.probe_blocks if method.controller else 0
        if not probe:
            return float(log.compute_share[0])
        blocks = len(find_blocks(denoiser_of(self._pipe)))
        return (probe + (blocks - probe) * float(log.compute_share[0])) / blocks


def evaluate(
    pipe: Any,
    methods: Sequence[Method],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int,
    call: Mapping[str, object] | None = None,
    progress: Progress = UNSEEN,
    caps: Caps = _NO_CAPS,
    kept: int = KEPT_PROMPTS,
    pictured: Collection[Family] | None = OURS,
) -> Results:
    """Measure methods against the reference, one image at a time.

    For every prompt all methods run in turn, the reference (the plain pipeline) among
    them; the order is rotated by one from image to image, so that a slow minute of the machine
    meets all of them. Before that each runs once uncounted; a method that cannot run on this
    pipeline is left out with a note.

    Args:
        pipe: A diffusers pipeline, used as it is and left as it was.
        methods: What to measure, without the reference.
        prompts: Texts, one image each.
        seeds: Of the initial noise, one per prompt.
        steps: `num_inference_steps` of the reference, and of every method that does not set its
            own.
        call: Further arguments of the pipeline call.
        progress: Hears how many images are drawn.
        caps: Bytes per tier under every controller.
        kept: Prompts whose images are in the results, the first ones.
        pictured: Families whose images are in the results, beside the reference's; all of them
            where there are none of these, or for None.

    Returns:
        All measurements; after Ctrl-C those of the prompts that are complete, with a note.

    Raises:
        ConfigError: If there is nothing to run, or two methods have the same name and target.
        KeyboardInterrupt: If no prompt is complete yet.
    """
    _check(methods, prompts, seeds, call or {})
    metrics = metrics_at_hand()
    rounds: list[Round] = []
    notes: list[str] = []
    with (
        progress as bar,
        silent(pipe),
        closing(TieredCache.under(caps, device=torch.device(pipe.device))) as cache,
    ):
        watch = Stopwatch(pipe, cache, steps=steps, call=call or {})
        jobs = list(zip(prompts, seeds, strict=True))
        bar.expect((len(methods) + 1) * (len(jobs) + 1))
        runnable = [REFERENCE]
        try:
            for method in (REFERENCE, *methods):
                bar.say(f"warm-up: {method.label}")
                note = _warm_up(watch, method, prompts[0], seed=seeds[0])
                if note:
                    notes.append(note)
                elif method is not REFERENCE:
                    runnable.append(method)
                bar.advance(1)
            bar.expect(len(methods) + 1 + len(runnable) * len(jobs))
            for number, (prompt, seed) in enumerate(jobs):
                shots: dict[int, Shot] = {}
                for index in _rotated(len(runnable), number):
                    bar.say(runnable[index].label)
                    shots[index] = watch.shoot(runnable[index], prompt, seed=seed)
                    bar.advance(1)
                chosen = _pictured(runnable, pictured) if number < kept else []
                rounds.append(_compare(runnable, shots, metrics=metrics, pictured=chosen))
        except KeyboardInterrupt:
            if not rounds:
                raise
            notes.append(f"interrupted after {len(rounds)} of {len(prompts)} prompts")
    return gather(runnable, rounds, prompts, seeds=seeds, num_inference_steps=steps, notes=notes)


def _check(
    methods: Sequence[Method],
    prompts: Sequence[str],
    seeds: Sequence[int],
    call: Mapping[str, object],
) -> None:
    if not prompts or len(prompts) != len(seeds):
        raise ConfigError(
            f"expected at least one prompt and one seed for each, received {len(prompts)} prompts "
            f"and {len(seeds)} seeds"
        )
    labels = [method.label for method in (REFERENCE, *methods)]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(
            f"expected methods that differ in name or target, received {', '.join(twice)} twice"
        )
    taken = sorted(_OWN_ARGUMENTS & call.keys())
    if taken:
        raise ConfigError(
            f"expected call arguments that the evaluation does not set itself, received "
            f"{', '.join(taken)}; remove them from `call`"
        )


def _rotated(count: int, number: int) -> list[int]:
    """Order the methods for the n-th image: every place in the order comes to each in turn."""
    return [(number + place) % count for place in range(count)]


def _warm_up(watch: Stopwatch, method: Method, prompt: str, *, seed: int) -> str:
    """Run once uncounted; return why the method cannot run here, or nothing."""
    try:
        watch.shoot(method, prompt, seed=seed)
    except UnsupportedModelError as error:
        if method is REFERENCE:
            raise
        return f"{method.label} left out: {error}"
    return ""


def _compare(
    methods: Sequence[Method],
    shots: Mapping[int, Shot],
    *,
    metrics: Mapping[str, Metric],
    pictured: Sequence[int],
) -> Round:
    ordered = [shots[index] for index in range(len(methods))]
    reference = ordered[0].image
    return Round(
        seconds=np.array([shot.seconds for shot in ordered]),
        quality={  # one by one: a batch of large images under all methods would not fit everywhere
            name: np.concatenate([metric(shot.image, reference) for shot in ordered])
            for name, metric in metrics.items()
        },
        compute_share=np.array([shot.compute_share for shot in ordered]),
        pictures={i: _picture(ordered[i].image) for i in pictured},
        traces={i: shot.trace for i, shot in enumerate(ordered) if shot.trace is not None},
    )


def _pictured(methods: Sequence[Method], families: Collection[Family] | None) -> list[int]:
    """Choose the methods whose images are kept."""
    chosen = [i for i, method in enumerate(methods) if method.family in (families or ())]
    return [0, *chosen] if chosen else list(range(len(methods)))


def _picture(image: Tensor) -> Picture:
    pixels: Picture = (image[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels


def _clock() -> float:
    """Read the clock once the GPU has done what it was given."""
    synchronize()
    return time.perf_counter()


@contextmanager
def silent(pipe: Any) -> Iterator[None]:
    """Turn off the pipeline's own bar of steps."""
    before = dict(getattr(pipe, "_progress_bar_config", None) or {})
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
