"""What an evaluation measured, as arrays; whoever reports it starts here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.evaluate.methods import Method
from ditcache_rl.types import Floats, Modes

#: An image as (H, W, 3) 8-bit values.
Picture = NDArray[np.uint8]


class Trace(NamedTuple):
    """What a controller did for one image, and what its cache held and served."""

    modes: Modes
    """(steps, sites) effective."""
    memory: Mapping[str, float]
    """Bytes and counts by name, as in `CacheStats`; `peak_bytes` is of this image."""


class Round(NamedTuple):
    """One prompt under all methods: (methods,) each."""

    seconds: Floats
    quality: Mapping[str, Floats]
    """By metric, against the reference."""
    compute_share: Floats
    pictures: Mapping[int, Picture]
    """By index of a method; empty where the round's images are not kept."""
    traces: Mapping[int, Trace] = {}
    """By index of a method; of those that a controller runs."""


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured: arrays are (methods, prompts).

    Attributes:
        methods: The reference first, then the methods as given, without those that could not run.
        prompts: Prompts that are complete.
        seeds: Seed of each prompt.
        num_inference_steps: Steps of the reference.
        seconds: Wall-clock time of the pipeline call.
        quality: By metric, against the reference of the same prompt and seed.
        compute_share: Computed blocks over all blocks of all steps of the reference.
        pictures: By index of a method, the images of the first prompts; of the
            reference and of static and learned methods only, or of all methods where there are none
            of these.
        traces: By index of a method, what was done for every prompt; of those that a controller
            runs.
        profile: What the policy took calls, steps and sites to cost; None without a policy.
        notes: What a reader should know: methods left out, an interruption.
    """

    methods: tuple[Method, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    num_inference_steps: int
    seconds: Floats
    quality: Mapping[str, Floats]
    compute_share: Floats
    pictures: Mapping[int, Sequence[Picture]] = field(default_factory=dict)
    traces: Mapping[int, Sequence[Trace]] = field(default_factory=dict)
    profile: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def psnr_db(self) -> Floats:
        """(methods, prompts) what comparisons at equal time go by."""
        return self.quality["psnr_db"]

    @property
    def albums(self) -> dict[str, Sequence[Picture]]:
        """The pictures, by the label of their method."""
        return {self.methods[index].label: kept for index, kept in self.pictures.items()}

    @property
    def speedup(self) -> Floats:
        """(methods,) median reference time over median time."""
        medians = np.median(self.seconds, axis=1)
        return np.asarray(medians[0] / medians, dtype=np.float64)


def gather(
    methods: Sequence[Method],
    rounds: Sequence[Round],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_inference_steps: int,
    notes: Sequence[str],
) -> Results:
    """Put rounds together.

    Args:
        methods: The reference first.
        rounds: Of the first prompts, at least one.
        prompts: All prompts that were asked for.
        seeds: All seeds, one per prompt.
        num_inference_steps: Steps of the reference.
        notes: Passed on.
    """
    complete = len(rounds)
    pictured = [one.pictures for one in rounds if one.pictures]
    return Results(
        methods=tuple(methods),
        prompts=tuple(prompts[:complete]),
        seeds=tuple(seeds[:complete]),
        num_inference_steps=num_inference_steps,
        seconds=np.stack([one.seconds for one in rounds], axis=1),
        quality={
            name: np.stack([one.quality[name] for one in rounds], axis=1)
            for name in rounds[0].quality
        },
        compute_share=np.stack([one.compute_share for one in rounds], axis=1),
        pictures={index: [p[index] for p in pictured] for index in (pictured or [{}])[0]},
        traces={index: [one.traces[index] for one in rounds] for index in rounds[0].traces},
        notes=tuple(notes),
    )
