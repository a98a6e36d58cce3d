"""Count what the stages of a training draw, and price it.

What depends on what a search finds is counted as it is typically.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import named_computes
from ditcache_rl.config import EnvConfig
from ditcache_rl.rl.gaps import gap_images
from ditcache_rl.rl.stages import FEW_CASES, searched_computes
from ditcache_rl.search.fit import CORRECTED
from ditcache_rl.search.methods import STARTS

#: Candidates that a search near what is known starts from.
_NEAR = 2
#: How often a schedule that is found is played by this process, while workers wait: as its gaps
#: were corrected together, at times twice.
_PLAYED = 1.5
#: Share of a candidate's computed steps that differ from those of candidates before.
_FRESH = 0.5
#: Weights on latency that a comparison plays, beside the budgets.
_TRADEOFFS = 3


class Stage(NamedTuple):
    """What a stage of a training takes."""

    name: str
    images: int
    """That are drawn, at any share of full compute."""
    seconds: float


class Price(NamedTuple):
    """What an image costs in a call of so many."""

    fixed_s: float
    """Of text encoder, decoder and sampler."""
    compute_s: float
    """Of all computed steps."""

    def of(self, images: float, share: float) -> float:
        """Return the seconds of images that compute a share of their steps."""
        return images * (self.fixed_s + share * self.compute_s)

    def over(self, workers: int) -> Price:
        """Return what an image costs where so many draw at this price."""
        return Price(self.fixed_s / workers, self.compute_s / workers)


class Drawers(NamedTuple):
    """What images cost whoever draws them."""

    here: Price
    """This process alone."""
    worker: Price
    """A worker; where there are none, this process."""
    workers: int = 0

    @property
    def shared(self) -> Price:
        """What is cut into parts, one for whoever is free."""
        return self.worker.over(max(1, self.workers))

    @property
    def fitting(self) -> Price:
        """What is fitted: more workers have no candidates to try at once."""
        return self.worker.over(min(max(1, self.workers), STARTS))

    def each(self, images: float) -> float:
        """Return the seconds of images that every worker draws for itself, if there are some."""
        return self.worker.of(images, 1.0) if self.workers else 0.0


class CountedStages:
    """Counts what the stages draw, and prices it.

    Args:
        config: The environment.
        drawers: Who draws.
        prompts: Train and select prompts.
        fits: Whether forecasts are fitted.
    """

    def __init__(
        self, config: EnvConfig, drawers: Drawers, prompts: tuple[int, int], *, fits: bool
    ) -> None:
        self._config, self._drawers, self._fits = config, drawers, fits
        self._train, self._select = prompts
        self._prompts = min(config.search.prompts, self._train)
        self._half = -(-self._prompts // 2)
        self._budgets = config.targets.budgets

    def stages(self) -> list[Stage]:
        """Return the stages that draw, in their order; those that draw nothing are left out."""
        every: dict[str, Callable[[], tuple[float, float]]] = {
            "references": lambda: self._drawn(self._train + self._select, 1.0),
            "search": self._search,
            "floors": self._floors,
            "safe": self._safe,
            "rescale": self._rescale,
            "pace": self._pace,
            "learn": self._learn,
            "compare": self._compare,
        }
        counted = [(name, *count()) for name, count in every.items()]
        return [Stage(name, round(images), s) for name, images, s in counted if images]

    def _drawn(self, images: float, share: float) -> tuple[float, float]:
        return images, self._drawers.shared.of(images, share)

    def _recorded(self, cases: int, steps: int) -> tuple[float, float]:
        """Count what is recorded of full compute: here, and one case on every worker."""
        if not self._fits:
            return 0.0, 0.0
        image = steps / self._config.steps[0]
        seconds = self._drawers.here.of(cases * image, 1.0) + self._drawers.each(image)
        return cases + self._drawers.workers, seconds

    def _searched(
        self, computes: int, steps: int, sizes: tuple[int, int, int], *, evaluations: int
    ) -> tuple[float, float]:
        """Count the search of one number of computes: prompts to climb, settle and score on."""
        whole = steps * self._config.cache.sites
        climbed, settled, scored = sizes
        if not self._fits:
            return self._drawn(climbed * (evaluations or _NEAR), computes / whole)
        images, seconds = self._drawn(scored * (1 if evaluations else _NEAR), computes / whole)
        if not evaluations:
            spent = settled * _NEAR * computes * self._drawers.here.compute_s
            return images, seconds + spent / whole * steps / self._config.steps[0]
        fresh = climbed * _FRESH * max(evaluations, STARTS) * computes
        # A rollout per coefficient, from its gap on.
        fresh += settled * CORRECTED * min(computes, steps - computes) * computes / 2
        known = settled * computes * self._drawers.worker.compute_s  # coefficients are moved there
        played = settled * computes * _PLAYED * self._drawers.here.compute_s
        spent = known + fresh * self._drawers.fitting.compute_s + played
        return images, seconds + spent / whole * steps / self._config.steps[0]

    def _search(self) -> tuple[float, float]:
        search, steps = self._config.search, self._config.steps[0]
        below, beyond, above = searched_computes(self._config, steps, self._config.cache.sites)
        every, few = self._prompts, min(FEW_CASES, self._prompts)
        sizes = every, every, every
        parts = [self._drawn(self._train, 1 / 7), self._recorded(every + few, steps)]
        for n in below:
            parts.append(self._searched(n, steps, sizes, evaluations=search.evaluations))
        for n in beyond + above:
            parts.append(self._searched(n, steps, (few, few, few), evaluations=0))
        return _sum(parts)

    def _floors(self) -> tuple[float, float]:
        steps = self._config.steps[0]
        whole = steps * self._config.cache.sites
        below, _, _ = searched_computes(self._config, steps, self._config.cache.sites)
        return _sum([self._drawn(self._select, n / whole) for n in (*below, whole // 2)])

    def _safe(self) -> tuple[float, float]:
        steps, search = self._config.steps[0], self._config.search
        sizes = self._half, self._half, min(FEW_CASES, self._prompts)
        parts = [self._recorded(self._half, steps)]
        for n in named_computes(self._config, steps):
            parts.append(self._searched(n, steps, sizes, evaluations=search.evaluations // 2))
            parts.append(self._drawn(self._select, n / (steps * self._config.cache.sites)))
        return _sum(parts)

    def _rescale(self) -> tuple[float, float]:
        few, quarter = min(FEW_CASES, self._prompts), self._config.search.evaluations // 4
        most, parts = named_computes(self._config, self._config.steps[0])[-1], [(0.0, 0.0)]
        for steps in self._config.steps[1:]:
            parts.append(self._recorded(self._half, steps))
            for n in named_computes(self._config, steps):
                near = n <= most
                sizes = few, self._half if near else few, few
                parts.append(self._searched(n, steps, sizes, evaluations=quarter * near))
        return _sum(parts)

    def _pace(self) -> tuple[float, float]:
        if not self._config.world.loads:
            return 0.0, 0.0
        recorded, followed, scored = gap_images(self._config.steps[0], self._train)
        told = followed, followed * self._drawers.shared.compute_s
        kept = recorded, self._drawers.here.of(recorded, 1.0)
        return _sum([kept, told, self._drawn(scored, 0.25)])

    def _learn(self) -> tuple[float, float]:
        agent = self._config.agent
        played = max(1, agent.episodes // agent.rows) * agent.rows
        compared = min(played, self._train * len(self._budgets))
        return self._drawn(played + compared, mean(self._budgets))

    def _compare(self) -> tuple[float, float]:
        targets = len(self._budgets) + _TRADEOFFS  # their schedules are known from the floors
        return self._drawn(targets * self._select, mean(self._budgets))


def _sum(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    images, seconds = np.sum(parts, axis=0)
    return float(images), float(seconds)
