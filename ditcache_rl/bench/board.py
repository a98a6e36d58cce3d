"""Score schedules on prompts: the board on which searches and agents play.

Rows of one pipeline call may follow different schedules and draw different prompts, so candidates
and prompts are batched together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench.draw import Case, Drawn, draw
from ditcache_rl.cache import Caps, Memory, TieredCache, lower_caps
from ditcache_rl.config import EnvConfig, memory_bytes, parse_bytes
from ditcache_rl.control import AllCompute, Controller, StaticSchedule
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import is_attached
from ditcache_rl.metrics import psnr_db, ssim
from ditcache_rl.schedules import Schedule, computes_of
from ditcache_rl.types import Floats, Mode

_NO_CAPS = Caps()
#: Seeds of the images of one prompt lie so far apart; no part has as many prompts.
_ROUND = 100_000


class Quality(NamedTuple):
    """Similarity to the reference, one number per row."""

    psnr_db: Floats
    ssim: Floats


class Scorer(Protocol):
    """What a search scores schedules with."""

    steps: int
    sites: int
    rows: int
    """Most images that are best scored together."""

    def sigmas(self) -> Floats:
        """Return the noise levels of the steps: (steps + 1,)."""
        ...

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Compare every case under its schedule with its reference."""
        ...


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
        #: Scores in place of this process, as workers do.
        self.elsewhere: Callable[[Sequence[Case], Sequence[Schedule]], Quality] | None = None
        self._references: dict[Case, Tensor] = {}
        self._sigmas: Floats | None = None
        self._entry_bytes: int | None = None

    @classmethod
    def of(cls, config: EnvConfig, pipe: Any, *, steps: int) -> Board:
        """Set up the board of an environment at one step count."""
        return cls(
            pipe,
            steps,
            sites=config.cache.sites,
            call=config.pipeline.call,
            rows=config.agent.rows,
            caps=caps_of(config, pipe),
            blocks=config.cache.blocks,
        )

    def draw(self, cases: Sequence[Case], controller: Controller | None = None) -> Drawn:
        """Call the pipeline, as it is or under a controller."""
        return draw(
            self.pipe,
            cases,
            controller,
            steps=self.steps,
            call=self.call,
            sites=self.sites,
            blocks=self.blocks,
            cache=self.cache,
        )

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
            self._references.update(zip(part, self.draw(part).images, strict=True))
            if on_batch is not None:
                on_batch(len(part))

    def references(self, cases: Sequence[Case]) -> Tensor:
        """Return the images of full compute: (len(cases), 3, H, W)."""
        self.prepare(cases)
        return torch.stack([self._references[case] for case in cases])

    def sigmas(self) -> Floats:
        """Return the noise levels of the steps, read off a call once: (steps + 1,)."""
        if self._sigmas is None:
            log = self.draw([Case("", 0)], AllCompute()).log
            assert log is not None, "a controller makes one"
            self._sigmas = log.run.sigmas
        return self._sigmas

    @property
    def entry_bytes(self) -> int:
        """Bytes that a site keeps of one image, all branches together; read off a call once."""
        if self._entry_bytes is None:
            modes = np.full((self.steps, self.sites), Mode.REUSE, dtype=np.int8)
            modes[0] = Mode.COMPUTE
            log = self.draw([Case("", 0)], StaticSchedule(Schedule(modes))).log
            assert log is not None, "a controller makes one"
            self._entry_bytes = log.peak_bytes // self.sites
        return self._entry_bytes

    def judge(self, images: Tensor, cases: Sequence[Case]) -> Quality:
        """Compare images with their references."""
        references = self.references(cases)
        return Quality(psnr_db(images, references), ssim(images, references))

    def score(self, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
        """Draw every case under its schedule.

        Args:
            cases: What to draw.
            schedules: One per case.
        """
        if self.elsewhere is not None:
            return self.elsewhere(cases, schedules)
        parts = []
        for start in range(0, len(cases), self.rows):
            part = cases[start : start + self.rows]
            controller = StaticSchedule(*schedules[start : start + self.rows])
            parts.append(self.judge(self.draw(part, controller).images, part))
        return Quality(
            np.concatenate([part.psnr_db for part in parts]),
            np.concatenate([part.ssim for part in parts]),
        )


def named_computes(config: EnvConfig, steps: int) -> list[int]:
    """Return the site computes of the budgets that an environment names, ascending.

    At least those of one step, with which every schedule begins.
    """
    sites = config.cache.sites
    named = {computes_of(share, steps * sites) for share in config.targets.budgets}
    return sorted({max(sites, computes) for computes in named})


def caps_of(config: EnvConfig, pipe: Any) -> Caps:
    """Return the bytes per tier that an environment names, on the machine of its pipeline.

    The device tier is not lowered to what is free at the moment: agents see how full it is, and the
    same seed must show them the same.

    Where memory is priced, tiers are those of every image on its own, and none is there for all.

    Raises:
        ConfigError: If the machine has less than that, or the directory is not fit.
    """
    if config.world.prices_memory:
        return _NO_CAPS
    cache = config.cache
    device = torch.device(pipe.device)
    slower = Memory(
        host=cache.host_bytes or None, disk=cache.disk_bytes or None, dir=cache.cache_dir or None
    )
    asked = parse_bytes(cache.device_bytes, total=memory_bytes(pipe.device))
    return lower_caps(slower.caps(device), device)._replace(device_bytes=asked)


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
