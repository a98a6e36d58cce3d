"""Tell what a training would take here, from a few timed calls, before anything is trained.

Images are counted as the stages draw them, and priced by their share of full compute: on workers,
where there are some, what they draw. What depends on what a search finds is counted as it is
typically; nothing here trains or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case, cases_of, named_computes
from ditcache_rl.bench.profile import PROFILE_ROUNDS, probe_schedules
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.machine import machine_facts
from ditcache_rl.pipelines import open_configured, open_matching
from ditcache_rl.policy import Policy
from ditcache_rl.rl.fleet import fleet_of
from ditcache_rl.rl.stages import FEW_CASES, searched_computes
from ditcache_rl.schedules import computes_of, spaced
from ditcache_rl.search import GapFitter
from ditcache_rl.types import HISTORY, UNSEEN, Progress

#: Candidates that a search of one budget starts from: fitted ones, and those near what is known.
_FIRST, _NEAR = 8, 2
#: Share of a candidate's computed steps that differ from those of candidates before.
_FRESH = 0.5
#: Weights on latency that a comparison plays, beside the budgets.
_TRADEOFFS = 3
#: What to change in an environment where a stage takes long.
_ADVICE = {
    "references": "fewer prompts in the files of [prompts]",
    "search": "[search] evaluations and prompts, or fewer [targets] budgets above 0.3",
    "floors": "fewer select prompts",
    "safe": "fewer select prompts, or fewer [targets] budgets",
    "rescale": "fewer counts in steps: others are carried over anyway",
    "learn": "[agent] episodes",
    "compare": "fewer select prompts, or fewer [targets] budgets",
}


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


class TrainEstimate(NamedTuple):
    """What a training takes on this machine."""

    env_id: str
    device: str
    on_gpu: bool
    image_s: float
    """Of an image of full compute, in a call of `rows`: on one worker, where there are some."""
    rows: int
    stages: list[Stage]
    simulates: bool
    """Whether deadlines are learned too: in simulation, which no image tells the time of."""
    workers: int = 0
    """That draw beside the learner; 0 where it draws."""

    @property
    def total(self) -> Stage:
        """All stages together."""
        images = sum(stage.images for stage in self.stages)
        return Stage("all", images, sum(stage.seconds for stage in self.stages))

    @property
    def headline(self) -> str:
        """What was timed, and where."""
        where = f", on each of {self.workers} workers" if self.workers else ""
        return (
            f"{self.env_id} on {self.device}: {self.image_s:.2f} s an image of full compute, "
            f"{self.rows} in a call{where}"
        )

    def advice(self) -> list[str]:
        """Name what to turn down in the longest stages, and what is not counted."""
        longest = sorted(self.stages, key=lambda stage: -stage.seconds)[:2]
        lines = [f"{one.name}: {_ADVICE[one.name]}" for one in longest if one.name in _ADVICE]
        simulated = "deadlines are learned in simulation, without images: not counted here"
        head = ["to train faster, turn down"] if lines else []
        return [*head, *lines, *([simulated] if self.simulates else [])]


def estimate(
    config: EnvConfig,
    *,
    workers: int = 0,
    address: str | None = None,
    retargets: Policy | None = None,
    progress: Progress = UNSEEN,
) -> TrainEstimate:
    """Open the pipeline, time a few calls, and add up what the stages would draw.

    Args:
        config: The environment.
        workers: That would draw, and `address`, of their cluster, as `fleet_of` takes them: all of
            them draw at once while they are timed.
        address: See `workers`.
        retargets: A policy that would be brought to other weights, in place of learning one.
        progress: Hears what is done.

    Raises:
        ConfigError: If the pipeline cannot be opened, or refuses the arguments of its call, or as
            `fleet_of`.
        ArtifactError: If the policy can't be brought to this pipeline.
        UnsupportedModelError: If it cannot be cached.
    """
    with progress, fleet_of(config, workers=workers, address=address) as fleet:
        progress.stage("open")
        if retargets is None:
            pipe = open_configured(config.pipeline)
        else:
            pipe = open_matching(config.pipeline, retargets.manifest, weights=False)
        steps, rows = config.steps[0], config.agent.rows
        board = Board.of(config, pipe, steps=steps, crew=fleet)
        train, select = cases_of(config, "train"), cases_of(config, "select")
        progress.stage("time")
        board.sigmas()  # under a controller: arguments that the pipeline refuses are named
        single = _price(board, train[:1])
        fits = retargets is None and GapFitter.is_possible(board, train)
        batch = _price(board, train[:rows]) if rows > 1 and retargets is None else single
        drawn, count = batch, 1
        if fleet is not None:
            count, rows = len(fleet), -(-rows // len(fleet))
            parts = [(train[:rows],)] * count
            list(board.spread(_price, parts))  # warms them up
            drawn = Price(*np.mean(list(board.spread(_price, parts)), axis=0).tolist())
    fitted = drawn.over(min(count, _FIRST))  # more have no candidates to try at once
    counted = _Counted(config, drawn.over(count), fitted, len(train), len(select), fits)
    probes = probe_schedules(steps, config.cache.sites)
    shares = [float((modes == 0).mean()) * len(modes) / steps for modes in probes]
    profile = PROFILE_ROUNDS * sum(single.of(1, share) for share in shares)
    images = PROFILE_ROUNDS * len(probes)
    facts, on_gpu = machine_facts(), pipe.device.type == "cuda"
    return TrainEstimate(
        config.id,
        str(facts["gpu"] if on_gpu else facts["cpu"]),
        on_gpu,
        drawn.of(1, 1.0),
        rows if retargets is None else 1,
        [Stage("profile", images, profile), *(counted.stages() if retargets is None else [])],
        bool(config.world.loads) and retargets is None,
        0 if fleet is None else len(fleet),
    )


def _price(board: Board, cases: Sequence[Case]) -> Price:
    """Time a call of full compute, and one of a quarter of it."""
    computes = max(board.sites, computes_of(0.25, board.steps * board.sites))
    quarter = spaced(board.steps, board.sites, computes)
    share, count = computes / (board.steps * board.sites), len(cases)
    full_s = board.draw(cases).seconds / count
    quarter_s = board.draw(cases, StaticSchedule(quarter)).seconds / count
    compute_s = min(full_s, max(0.0, (full_s - quarter_s) / (1 - share)))
    return Price(full_s - compute_s, compute_s)


class _Counted:
    """Counts what the stages draw, and prices it: the fits of candidates apart."""

    def __init__(
        self, config: EnvConfig, price: Price, fitted: Price, train: int, select: int, fits: bool
    ) -> None:
        self._config, self._price, self._fitted, self._fits = config, price, fitted, fits
        self._train, self._select = train, select
        self._prompts = min(config.search.prompts, train)
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
            "learn": self._learn,
            "compare": self._compare,
        }
        counted = [(name, *count()) for name, count in every.items()]
        return [Stage(name, round(images), s) for name, images, s in counted if images]

    def _drawn(self, images: float, share: float) -> tuple[float, float]:
        return images, self._price.of(images, share)

    def _searched(
        self, computes: int, steps: int, sizes: tuple[int, int, int], *, evaluations: int
    ) -> tuple[float, float]:
        """Count the search of one number of computes: prompts to climb, settle and score on."""
        whole = steps * self._config.cache.sites
        climbed, settled, scored = sizes
        if not self._fits:
            return self._drawn(climbed * (evaluations or _NEAR), computes / whole)
        candidates = max(evaluations, _FIRST) if evaluations else _NEAR
        images, seconds = self._drawn(scored, computes / whole)
        fresh = climbed * _FRESH * candidates * computes
        if settled != climbed:
            fresh += settled * computes
        if evaluations:  # a rollout per coefficient, from its gap on
            fresh += settled * HISTORY * min(computes, steps - computes) * computes / 2
        share = fresh / whole * steps / self._config.steps[0]
        return images, seconds + share * self._fitted.compute_s

    def _search(self) -> tuple[float, float]:
        search, steps = self._config.search, self._config.steps[0]
        below, beyond, above = searched_computes(self._config, steps, self._config.cache.sites)
        every, few = self._prompts, min(FEW_CASES, self._prompts)
        sizes = (self._half if self._fits else every, every, every)
        parts = [self._drawn(self._train, 1 / 7), self._drawn(every + few, 1.0)]
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
        sizes, parts = (self._half, self._half, min(FEW_CASES, self._prompts)), [(0.0, 0.0)]
        for n in named_computes(self._config, steps):
            parts.append(self._searched(n, steps, sizes, evaluations=search.evaluations // 2))
            parts.append(self._drawn(self._select, n / (steps * self._config.cache.sites)))
        return _sum(parts)

    def _rescale(self) -> tuple[float, float]:
        few, quarter = min(FEW_CASES, self._prompts), self._config.search.evaluations // 4
        sizes, parts = (few, self._prompts, few), [(0.0, 0.0)]
        for steps in self._config.steps[1:]:
            for n in named_computes(self._config, steps):
                parts.append(self._searched(n, steps, sizes, evaluations=quarter))
        return _sum(parts)

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
