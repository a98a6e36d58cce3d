"""Measure the sensitivity of every site of an environment by several measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig, check_within
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import find_blocks, find_stack
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import model_identity, open_configured
from ditcache_rl.sensitivity import (
    SUBLAYERS,
    SensitivityMap,
    attention_sensitivity,
    count_sites,
    gradient_sensitivity,
    injection_sensitivity,
    typical,
)
from ditcache_rl.types import MOST_SITES, MOST_STEPS, UNSEEN, Floats, Progress


@dataclass(frozen=True, slots=True)
class AnalyzeOptions:
    """What to measure.

    Attributes:
        sites: Parts of the block stack; None for as many as it can have.
        sublayers: Measure the attention and the feed-forward of every block in place of sites.
        steps: Denoising steps; None for the first of the environment.
        prompts: Train prompts for gradient and attention.
        injection_prompts: Train prompts for injection, which is far dearer; 0 leaves it out.
        images: Per prompt, each with a seed of its own, for the gradient. What differs between
            images hardly depends on the prompt, so that several settle the grades of few prompts.
        probes: Random images per image for the gradient.
    """

    sites: int | None
    sublayers: bool
    steps: int | None
    prompts: int
    injection_prompts: int
    images: int
    probes: int

    def check(self, config: EnvConfig) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: If a number is out of range.
        """
        available = len(config.read_prompts("train"))
        for name, value, least, most in (
            ("prompts", self.prompts, 1, available),
            ("injection-prompts", self.injection_prompts, 0, available),
            ("images", self.images, 1, 99),
            ("probes", self.probes, 1, 1024),
            ("steps", self.steps, 2, MOST_STEPS),
            ("sites", self.sites, 1, MOST_SITES),
        ):
            if value is not None:
                check_within(f"--{name}", value, least, most)
        if self.sublayers and self.sites is not None:
            raise ConfigError(
                f"expected --sites or --sublayers, received --sites {self.sites} and --sublayers"
            )


def analyze(
    config: EnvConfig, options: AnalyzeOptions, *, progress: Progress = UNSEEN
) -> SensitivityMap:
    """Measure what can be measured.

    A measure that the pipeline does not allow is left out with a note.

    Raises:
        ConfigError: As `AnalyzeOptions.check`, or if the stack can't have that many sites.
        UnsupportedModelError: If no measure is possible.
    """
    options.check(config)
    pipe = open_configured(config.pipeline)
    denoiser = denoiser_of(pipe)
    identity = model_identity(denoiser)
    steps = options.steps or config.steps[0]
    board = Board(
        pipe,
        steps,
        sites=options.sites or _most_sites(denoiser),
        call=config.pipeline.call,
        rows=config.ppo.rows,
    )
    board.sigmas()  # what the pipeline refuses, it refuses now
    measures: dict[str, Floats] = {}
    prompts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    asked = [measure for measure in _measures(config, board, options) if measure.prompts]
    with progress as bar:
        bar.expect(sum(measure.images for measure in asked))
        drawn = 0
        for name, count, images, measure in asked:
            bar.say(name)
            started = time.perf_counter()
            drawn += images
            try:
                found = measure(bar.advance)
            except UnsupportedModelError as error:
                bar.note(f"left out {name}: {error}")
            else:
                measures[name], prompts[name] = typical(found), count
                seconds[name] = time.perf_counter() - started
            bar.reach(drawn)
    if not measures:
        raise UnsupportedModelError(
            "expected at least one measure that works here, received none; see the notes above, or "
            "ask for injection with --injection-prompts 2"
        )
    names = _site_names(count_sites(board, sublayers=options.sublayers), options.sublayers)
    return SensitivityMap(config.id, identity, names, measures, prompts, seconds)


def _most_sites(denoiser: nn.Module) -> int:
    """Count the blocks; the deep branch of a U-Net is one site, however many it has."""
    stack = find_stack(denoiser)
    return 1 if stack is not None and stack.deep else len(find_blocks(denoiser))


def _site_names(count: int, sublayers: bool) -> list[str]:
    kinds = tuple(SUBLAYERS) if sublayers else ("",)
    return [f"{i // len(kinds)} {kinds[i % len(kinds)]}".strip() for i in range(count)]


class _Measure(NamedTuple):
    """One way to tell how much a site matters at a step."""

    name: str
    prompts: int
    images: int
    run: Callable[[Callable[[int], None]], Floats]
    """Hears how many images were drawn."""


def _measures(config: EnvConfig, board: Board, options: AnalyzeOptions) -> list[_Measure]:
    """List what can be asked for; without prompts it is not."""
    cases = cases_of(config, "train")
    few, fewer = cases[: options.prompts], cases[: options.injection_prompts]
    many = cases_of(config, "train", images=options.images)[: options.prompts * options.images]
    sublayers = options.sublayers
    cells = (board.steps - 1) * count_sites(board, sublayers=sublayers)
    return [
        _Measure(
            "gradient",
            len(few),
            len(many) * options.probes,
            lambda tell: gradient_sensitivity(
                board, many, sublayers=sublayers, probes=options.probes, on_rows=tell
            ),
        ),
        _Measure(
            "attention",
            0 if sublayers else len(few),  # a feed-forward has none
            len(few),
            lambda tell: attention_sensitivity(board, few, on_rows=tell).drift,
        ),
        _Measure(
            "injection",
            len(fewer),
            len(fewer) * cells,
            lambda tell: injection_sensitivity(
                board, fewer, sublayers=sublayers, rows=board.rows, on_rows=tell
            ),
        ),
    ]
