"""Score schedules on prompts: the board on which searches and agents play.

Rows of one pipeline call may follow different schedules and draw different prompts, so candidates
and prompts are batched together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.bench.draw import Case, Drawn, draw
from ditcache_rl.bench.hands import dealt
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

T = TypeVar("T")


class Quality(NamedTuple):
    """Similarity to the reference, one number per row."""

    psnr_db: Floats
    ssim: Floats

    @classmethod
    def joined(cls, parts: Iterable[Quality]) -> Quality:
        """Return that of all rows of all parts."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


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


class Crew(Protocol):
    """Replicas of a pipeline in other processes."""

    def __len__(self) -> int:
        """Count the replicas."""
        ...

    def spread(
        self, board: Board, function: Callable[..., T], parts: Sequence[tuple[Any, ...]]
    ) -> Iterator[T]:
        """Do what `Board.spread` does, on replicas that have the references of the board."""
        ...

    def share(self, value: T) -> Callable[[], T]:
        """Return what gives a value to replicas: it travels once to each, as part of a question."""
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
        crew: Draws references and scores in place of this process; None to do it here.
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
        crew: Crew | None = None,
    ) -> None:
        self.pipe, self.steps, self.sites, self.rows = pipe, steps, sites, rows
        self.blocks, self.crew = blocks, crew
        self.call = call
        self.cache = TieredCache.under(caps, device=torch.device(pipe.device))
        self._references: dict[Case, Tensor] = {}
        self._sigmas: Floats | None = None
        self._entry_bytes: int | None = None

    @classmethod
    def of(cls, config: EnvConfig, pipe: Any, *, steps: int, crew: Crew | None = None) -> Board:
        """Set up the board of an environment at one step count."""
        return cls(
            pipe,
            steps,
            sites=config.cache.sites,
            call=config.pipeline.call,
            rows=config.agent.rows,
            caps=caps_of(config, pipe),
            blocks=config.cache.blocks,
            crew=crew,
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

    @property
    def hands(self) -> int:
        """Replicas of the pipeline that draw."""
        return 1 if self.crew is None else len(self.crew)

    def parts(self, *columns: Sequence[Any], whole: bool = False) -> list[tuple[Any, ...]]:
        """Cut columns of one entry per case, cases first, into what `spread` takes.

        Args:
            columns: Of equal lengths.
            whole: Whether parts have `rows` cases, however many workers then have nothing to do.
        """
        count = len(columns[0])
        size = max(1, min(self.rows, -(-count // (1 if whole else self.hands))))
        return [
            tuple(column[start : start + size] for column in columns)
            for start in range(0, count, size)
        ]

    def spread(self, function: Callable[..., T], parts: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        """Call a function of a board once per part, in a crew if there is one.

        Args:
            function: Of a module, and without memory, as any replica of the board may run it.
            parts: Further arguments; the first are the cases whose references it may look at.

        Returns:
            What it returns for every part, in their order.
        """
        if self.crew is not None:
            return self.crew.spread(self, function, parts)
        return (function(self, *part) for part in parts)

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
        parts = self.parts(missing, whole=True)  # the same company, whoever draws them
        for (part,), images in zip(parts, self.spread(_drawn, parts), strict=True):
            self.keep(dict(zip(part, images, strict=True)))
            if on_batch is not None:
                on_batch(len(part))

    def keep(self, references: Mapping[Case, Tensor]) -> None:
        """Take images of full compute, (3, H, W) each, that were drawn before."""
        self._references.update(references)

    def known(self, cases: Sequence[Case]) -> dict[Case, Tensor]:
        """Return the references of cases as far as they are there."""
        return {case: self._references[case] for case in cases if case in self._references}

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
        self.prepare(cases)
        rows = dealt(schedules, len(self.parts(cases)))
        parts = [([cases[row] for row in part], [schedules[row] for row in part]) for part in rows]
        found, back = Quality.joined(self.spread(_scored, parts)), np.argsort(np.concatenate(rows))
        return Quality(*(column[back] for column in found))


def _drawn(board: Board, cases: Sequence[Case]) -> Tensor:
    return board.draw(cases).images


def _scored(board: Board, cases: Sequence[Case], schedules: Sequence[Schedule]) -> Quality:
    return board.judge(board.draw(cases, StaticSchedule(*schedules)).images, cases)


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
