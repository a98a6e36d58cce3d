"""What `ditcache-rl analyze` does: measure the sensitivity of every site, grade it, draw it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.evaluate.figures import plot_sensitivity
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import model_identity, open_configured
from ditcache_rl.sensitivity import (
    SUBLAYERS,
    Grade,
    SensitivityMap,
    attention_sensitivity,
    count_sites,
    gradient_sensitivity,
    injection_sensitivity,
    rank_correlation,
    save_map,
    typical,
)
from ditcache_rl.types import Floats


@dataclass(frozen=True, slots=True)
class AnalyzeOptions:
    """What to measure, and where to put it.

    Attributes:
        out: Folder of the map and its picture.
        sites: Parts of the block stack; None for one per block.
        sublayers: Measure the attention and the feed-forward of every block in place of sites.
        steps: Denoising steps; None for the first of the environment.
        prompts: Train prompts for gradient and attention.
        injection_prompts: Train prompts for injection, which is far dearer; 0 leaves it out.
        images: Per prompt, each with a seed of its own, for the gradient. What differs between
            images hardly depends on the prompt, so that several settle the grades of few prompts.
        probes: Random images per image for the gradient.
    """

    out: Path
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
            ("steps", self.steps or config.steps[0], 2, 1000),
            ("sites", self.sites or 1, 1, 1000),
        ):
            if not least <= value <= most:
                raise ConfigError(f"--{name} must lie in [{least}, {most}], received {value}")
        if self.sublayers and self.sites is not None:
            raise ConfigError(
                f"expected --sites or --sublayers, received --sites {self.sites} and --sublayers"
            )


def analyze(config: EnvConfig, options: AnalyzeOptions, *, console: Console) -> SensitivityMap:
    """Measure, and write `sensitivity.json` and `sensitivity.png`.

    A measure that the pipeline does not allow is left out with a note.

    Raises:
        ConfigError: As `AnalyzeOptions.check`, or if the stack can't have that many sites.
        UnsupportedModelError: If no measure is possible.
    """
    options.check(config)
    source = config.pipeline
    pipe = open_configured(source)
    steps = options.steps or config.steps[0]
    board = Board(
        pipe,
        steps,
        sites=options.sites or len(find_blocks(denoiser_of(pipe))),
        call=config.pipeline.call,
        rows=config.ppo.rows,
    )
    measures: dict[str, Floats] = {}
    prompts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} images"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        for name, count, images, measure in _measures(config, board, options):
            if not count:
                continue
            task = bar.add_task(name, total=images)
            started = time.perf_counter()
            try:
                found = measure(lambda done, task=task: bar.advance(task, done))  # type: ignore[misc]
            except UnsupportedModelError as error:
                bar.remove_task(task)
                bar.console.print(f"left out {name}: {error}", markup=False)
                continue
            measures[name], prompts[name] = typical(found), count
            seconds[name] = time.perf_counter() - started
    if not measures:
        raise UnsupportedModelError(
            "expected at least one measure that works here, received none; see the notes above, or "
            "ask for injection with --injection-prompts 2"
        )
    names = _site_names(count_sites(board, sublayers=options.sublayers), options.sublayers)
    identity = model_identity(pipe.transformer)
    result = SensitivityMap(config.id, identity, names, measures, prompts, seconds)
    save_map(result, options.out / "sensitivity.json")
    plot_sensitivity(result, options.out / "sensitivity.png")
    return result


def _site_names(count: int, sublayers: bool) -> list[str]:
    kinds = tuple(SUBLAYERS) if sublayers else ("",)
    return [f"{i // len(kinds)} {kinds[i % len(kinds)]}".strip() for i in range(count)]


def _measures(
    config: EnvConfig, board: Board, options: AnalyzeOptions
) -> list[tuple[str, int, int, Callable[[Callable[[int], None]], Floats]]]:
    """List name, prompts, images and function of every measure."""
    cases = cases_of(config, "train")
    few, fewer = cases[: options.prompts], cases[: options.injection_prompts]
    many = cases_of(config, "train", images=options.images)[: options.prompts * options.images]
    sublayers = options.sublayers
    cells = (board.steps - 1) * count_sites(board, sublayers=sublayers)
    return [
        (
            "gradient",
            len(few),
            len(many) * options.probes,
            lambda tell: gradient_sensitivity(
                board, many, sublayers=sublayers, probes=options.probes, on_rows=tell
            ),
        ),
        (
            "attention",
            0 if sublayers else len(few),  # a feed-forward has none
            len(few),
            lambda tell: attention_sensitivity(board, few, on_rows=tell).drift,
        ),
        (
            "injection",
            len(fewer),
            len(fewer) * cells,
            lambda tell: injection_sensitivity(
                board, fewer, sublayers=sublayers, rows=board.rows, on_rows=tell
            ),
        ),
    ]


def render_map(found: SensitivityMap) -> Table:
    """Lay a map out for the terminal: a line per site, with the steps at which it matters most."""
    table = Table(title=f"{found.env_id}: sensitivity per site, by {found.measure}")
    table.add_column("site")
    table.add_column("grade")
    for name in found.measures:
        table.add_column(f"{name}, mean", justify="right")
    table.add_column("largest at step", justify="right")
    worst = np.nanargmax(found.measures[found.measure], axis=0)
    for site, (label, grade) in enumerate(zip(found.names, found.grades(), strict=True)):
        values = [f"{found.sites(name)[site]:.3g}" for name in found.measures]
        table.add_row(label, Grade(int(grade)).name.lower(), *values, str(worst[site]))
    return table


def agreement(found: SensitivityMap) -> str:
    """Say how well the measures agree on the order of all sites and steps."""
    names = list(found.measures)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    if not pairs:
        return "one measure only; ask for injection with --injection-prompts 2 to check it"
    return "Spearman over sites and steps: " + ", ".join(
        f"{a} with {b} {rank_correlation(found.measures[a], found.measures[b]):.2f}"
        for a, b in pairs
    )
