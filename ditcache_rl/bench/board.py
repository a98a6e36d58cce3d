"""Score schedules on prompts: the board on which searches and agents play.

Rows of one pipeline call may follow different schedules and draw different prompts, so candidates
and prompts are batched together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.cache import Caps, TieredCache, ask_caps, lower_caps
from ditcache_rl.config import EnvConfig, memory_bytes, parse_bytes
from ditcache_rl.control import Controller, StaticSchedule
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import BlockRunner, RequestLog, is_attached
from ditcache_rl.metrics import psnr_db, ssim
from ditcache_rl.types import Floats, Modes

_NO_CAPS = Caps()
#: Seeds of the images of one prompt lie so far apart; no part has as many prompts.
_ROUND = 100_000


class Case(NamedTuple):
    """One image to draw."""

    prompt: str
    seed: int


class Quality(NamedTuple):
    """Similarity to the reference, one number per row."""

    psnr_db: Floats
    ssim: Floats


class Board:
    """A pipeline at one step count, with the reference images of every case that was asked for.

    Args:
        pipe: The pipeline.
        steps: Denoising steps.
        sites: Parts of the block stack.
        call: Further arguments of the pipeline's call.
        rows: Most images per call.
        caps: Bytes per tier, for all calls together.
        blocks: Where the blocks are, as in `BlockRunner`; None to find them.
    """

    def __init__(
        self,
        pipe: Any,
        steps: int,
        *,
        sites: int,
        call: dict[str, Any],
        rows: int = 32,
        caps: Caps = _NO_CAPS,
        blocks: str | None = None,
    ) -> None:
        self.pipe, self.steps, self.sites, self.rows = pipe, steps, sites, rows
        self.blocks = blocks
        self.call = call
        self.cache = TieredCache.under(caps, device=torch.device(pipe.device))
        self._references: dict[Case, Tensor] = {}

    def draw(self, cases: Sequence[Case]) -> Tensor:
        """Call the pipeline as it is: (len(cases), 3, H, W) in [0, 1], on the CPU."""
        images: Tensor = self.pipe(
            [case.prompt for case in cases],
            generator=[torch.Generator("cpu").manual_seed(case.seed) for case in cases],
            num_inference_steps=self.steps,
            output_type="pt",
            **self.call,
        ).images
        return images.float().cpu()

    def draw_under(
        self, controller: Controller, cases: Sequence[Case]
    ) -> tuple[Tensor, RequestLog]:
        """Run the pipeline under a controller: images and what was done."""
        logs: list[RequestLog] = []
        with BlockRunner(
            self.pipe,
            controller,
            self.cache,
            sites=self.sites,
            blocks=self.blocks,
            on_finish=logs.append,
        ):
            images = self.draw(cases)
        return images, logs[0]

    def prepare(
        self, cases: Sequence[Case], *, on_batch: Callable[[int], None] | None = None
    ) -> None:
        """Draw the references that are missing; `on_batch` hears how many were drawn.

        Raises:
            StateError: If some are missing and the pipeline is attached.
        """
        missing = [case for case in dict.fromkeys(cases) if case not in self._references]
        if missing and is_attached(self.pipe):
            # Under a controller the call would be no reference, or wait for decisions for ever.
            raise StateError(
                "expected a plain pipeline to draw references, received one that is attached; "
                "finish or close what runs on it first"
            )
        for start in range(0, len(missing), self.rows):
            part = missing[start : start + self.rows]
            self._references.update(zip(part, self.draw(part), strict=True))
            if on_batch is not None:
                on_batch(len(part))

    def references(self, cases: Sequence[Case]) -> Tensor:
        """Return the images of full compute: (len(cases), 3, H, W)."""
        self.prepare(cases)
        return torch.stack([self._references[case] for case in cases])

    def sigmas(self) -> Floats:
        """Return the noise levels of the steps, read off a call: (steps + 1,)."""
        all_compute = StaticSchedule(np.zeros((self.steps, self.sites), dtype=np.int8))
        _, log = self.draw_under(all_compute, [Case("", 0)])
        return log.run.sigmas

    def judge(self, images: Tensor, cases: Sequence[Case]) -> Quality:
        """Compare images with their references."""
        references = self.references(cases)
        return Quality(psnr_db(images, references), ssim(images, references))

    def score(
        self,
        cases: Sequence[Case],
        schedules: Sequence[Modes],
        weights: Sequence[Floats] | None = None,
    ) -> Quality:
        """Draw every case under its schedule.

        Args:
            cases: What to draw.
            schedules: One (steps, sites) table per case.
            weights: (steps, HISTORY) fitted weights per case, see `StaticSchedule`.
        """
        parts = []
        for start in range(0, len(cases), self.rows):
            part = cases[start : start + self.rows]
            table = np.stack(schedules[start : start + self.rows], axis=1)
            fitted = None if weights is None else np.stack(weights[start : start + self.rows], 1)
            images, _ = self.draw_under(StaticSchedule(table, fitted), part)
            parts.append(self.judge(images, part))
        return Quality(
            np.concatenate([part.psnr_db for part in parts]),
            np.concatenate([part.ssim for part in parts]),
        )


def budget_of(share: float, site_steps: int) -> int:
    """Turn a share of full compute into site computes."""
    return max(1, int(share * site_steps + 1e-9))


def budgets_of(config: EnvConfig, site_steps: int) -> list[int]:
    """Return the site computes of the budgets that an environment names, ascending."""
    return sorted({budget_of(share, site_steps) for share in config.targets.budgets})


def board_of(config: EnvConfig, pipe: Any, *, steps: int) -> Board:
    """Set up the board of an environment at one step count."""
    return Board(
        pipe,
        steps,
        sites=config.cache.sites,
        call=config.pipeline.call,
        rows=config.ppo.rows,
        caps=caps_of(config, pipe),
        blocks=config.cache.blocks,
    )


def caps_of(config: EnvConfig, pipe: Any) -> Caps:
    """Return the bytes per tier that an environment names, on the machine of its pipeline.

    The device tier is not lowered to what is free at the moment: agents see how full it is, and the
    same seed must show them the same.

    Raises:
        ConfigError: If the machine has less than that, or the directory is not fit.
    """
    cache = config.cache
    device = torch.device(pipe.device)
    caps = ask_caps(
        device,
        host_bytes=cache.host_bytes or None,
        disk_bytes=cache.disk_bytes or None,
        cache_dir=cache.cache_dir or None,
    )
    asked = parse_bytes(cache.device_bytes, total=memory_bytes(pipe.device))
    return lower_caps(caps, device)._replace(device_bytes=asked)


def cases_of(config: EnvConfig, part: str, *, images: int = 1) -> list[Case]:
    """List prompts of a part with their seeds; those of one prompt lie one after the other.

    Args:
        config: The environment.
        part: `train`, `select` or `test`.
        images: Per prompt.
    """
    first: int = getattr(config.seeds, part)
    return [
        Case(prompt, first + index + turn * _ROUND)
        for index, prompt in enumerate(config.read_prompts(part))
        for turn in range(images)
    ]
