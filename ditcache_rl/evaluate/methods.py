"""What is compared: a method is a way to run the pipeline faster, at one of its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from ditcache_rl.control import Controller, EasyCache, EveryK, FBCache, TeaCache
from ditcache_rl.errors import ConfigError, closest

Family = Literal["reference", "fewer-steps", "heuristic", "peer", "static", "learned", "deadline"]
FAMILIES: tuple[Family, ...] = get_args(Family)

#: Shares of the steps that the fewer-steps baseline takes: about 2x to 8x.
FEWER_STEPS_SHARES = (0.5, 0.33, 0.25, 0.18, 0.11)
#: Steps from one computed step to the next, by the order of the forecast between; 0 reuses.
EVERY_K: Mapping[int, tuple[int, ...]] = MappingProxyType({0: (2, 4, 7), 1: (3, 4, 6, 9)})
#: Thresholds from careful to greedy. They reach beyond the published ranges (TeaCache 0.25 to 0.8,
#: FBCache 0.06 to 0.12, EasyCache 0.2), so that a small model too computes 10 to 50 % of its steps.
TEACACHE_THRESHOLDS = (0.4, 0.8, 1.2, 2.4)
FBCACHE_THRESHOLDS = (0.12, 0.2, 0.35, 0.6)
EASYCACHE_THRESHOLDS = (0.05, 0.12, 0.4)
#: Rules that need the first block, and cache what the others add.
_LOOK_INSIDE = (TeaCache, FBCache)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to run the pipeline, at one setting.

    Attributes:
        name: Shared by all settings of the method, e.g. "teacache".
        family: What kind of method it is, one of `FAMILIES`.
        target: The setting, e.g. "2.0x" or "threshold 0.3"; empty if there is only one.
        controller: Decides at every step; None runs the pipeline as it is.
        sites: Parts of the block stack that the controller decides about.
        blocks: Where the blocks are, as in `BlockRunner`; None to find them.
        num_inference_steps: Steps to take; None for as many as the reference takes.
        deadline_s: Seconds that the call may take; None where nobody looks at the clock.
        applied: Puts something else than a controller on a pipeline, for one call.

    Raises:
        ConfigError: If the family is unknown or a number is below 1.
    """

    name: str
    family: Family
    target: str = ""
    controller: Controller | None = None
    sites: int = 1
    blocks: str | None = None
    num_inference_steps: int | None = None
    deadline_s: float | None = None
    applied: Callable[[Any], AbstractContextManager[object]] | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(
                f"method {self.name!r}: family must be one of {', '.join(FAMILIES)}, received "
                f"{self.family!r}.{closest(str(self.family), FAMILIES)}"
            )
        if min(self.sites, self.num_inference_steps or 1) < 1:
            raise ConfigError(
                f"method {self.name!r}: sites and num_inference_steps must be >= 1, received "
                f"{self.sites} and {self.num_inference_steps}"
            )

    @property
    def label(self) -> str:
        """Name and setting in one."""
        return f"{self.name} {self.target}".rstrip()


#: The pipeline as it is, which everything is compared with.
REFERENCE = Method("reference", "reference")


def default_baselines(steps: int, blocks: str | None = None) -> list[Method]:
    """List what a policy has to beat: fewer steps, fixed intervals, published threshold rules.

    Args:
        steps: Steps of the reference; settings that make no sense with so few are left out.
        blocks: What rules cache that don't look into the blocks, so that they may leave out as much
            as the policy does.
    """
    counts = sorted({round(share * steps) for share in FEWER_STEPS_SHARES}, reverse=True)
    methods = [
        Method("fewer steps", "fewer-steps", f"{count} steps", num_inference_steps=count)
        for count in counts
        if 1 <= count < steps
    ]
    for order, intervals in EVERY_K.items():
        name = "every-k forecast" if order else "every-k reuse"
        methods += [
            Method(name, "heuristic", f"k = {k}", EveryK(k, order=order), blocks=blocks)
            for k in intervals
            if k <= steps
        ]
    rules: list[tuple[str, type[TeaCache | FBCache | EasyCache], tuple[float, ...]]] = [
        ("teacache", TeaCache, TEACACHE_THRESHOLDS),
        ("fbcache", FBCache, FBCACHE_THRESHOLDS),
        ("easycache", EasyCache, EASYCACHE_THRESHOLDS),
    ]
    for name, rule, thresholds in rules:
        own = None if rule in _LOOK_INSIDE else blocks
        methods += [
            Method(name, "heuristic", f"threshold {t:g}", rule(t), blocks=own) for t in thresholds
        ]
    return methods
