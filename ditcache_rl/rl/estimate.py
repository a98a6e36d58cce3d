"""Tell what a training would take here, from a few timed calls, before anything is trained.

Images are counted as the stages draw them, and priced by their share of full compute: on workers,
where there are some, what they draw. What depends on what a search finds is counted as it is
typically; nothing here trains or writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.bench.profile import profile_calls
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.machine import machine_facts
from ditcache_rl.pipelines import open_configured, open_matching
from ditcache_rl.policy import Policy
from ditcache_rl.rl.counted import CountedStages, Drawers, Price, Stage
from ditcache_rl.rl.crew import suited_fleet
from ditcache_rl.rl.fleet import fleet_of
from ditcache_rl.schedules import computes_of, spaced
from ditcache_rl.search import GapFitter
from ditcache_rl.types import UNSEEN, Progress

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


class TrainEstimate(NamedTuple):
    """What a training takes on this machine."""

    env_id: str
    device: str
    on_gpu: bool
    image_s: float
    """Of an image of full compute, in a call of `rows`: on one worker, where there are some."""
    rows: int
    alone_s: float
    """Of one in a call of its own, in this process: what users of the plain pipeline wait."""
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
        """Tell what all comes to, what to turn down in the longest stages, what is not counted."""
        images = self.total.seconds / self.alone_s
        whole = f"as long as {images:,.0f} images of {self.alone_s:.2f} s, one at a time"
        longest = sorted(self.stages, key=lambda stage: -stage.seconds)[:2]
        lines = [f"{one.name}: {_ADVICE[one.name]}" for one in longest if one.name in _ADVICE]
        simulated = "deadlines are learned in simulation, without images: not counted here"
        head = ["to train faster, turn down"] if lines else []
        return [whole, *head, *lines, *([simulated] if self.simulates else [])]


def estimate(
    config: EnvConfig,
    *,
    workers: int | None = 0,
    address: str | None = None,
    retargets: Policy | None = None,
    progress: Progress = UNSEEN,
) -> TrainEstimate:
    """Open the pipeline, time a few calls, and add up what the stages would draw.

    Args:
        config: The environment.
        workers: That would draw; None for as many as suit this machine. All of them draw at once
            while they are timed.
        address: Of their cluster, as `fleet_of` takes it.
        retargets: A policy that would be brought to other weights, in place of learning one.
        progress: Hears what is done.

    Raises:
        ConfigError: If the pipeline cannot be opened, or refuses the arguments of its call, or as
            `fleet_of`.
        ArtifactError: If the policy can't be brought to this pipeline.
        UnsupportedModelError: If it cannot be cached.
    """
    with ExitStack() as held:
        held.enter_context(progress)
        fleet = held.enter_context(fleet_of(config, workers=workers or 0, address=address))
        progress.stage("open")
        if retargets is None:
            pipe = open_configured(config.pipeline)
        else:
            pipe = open_matching(config.pipeline, retargets.manifest, weights=False)
        steps, rows = config.steps[0], config.agent.rows
        board = Board.of(config, pipe, steps=steps)
        train, select = cases_of(config, "train"), cases_of(config, "select")
        progress.stage("time")
        board.sigmas()  # under a controller: arguments that the pipeline refuses are named
        single = _price(board, train[:1])
        fits = retargets is None and GapFitter.is_possible(board, train)
        batch = _price(board, train[:rows]) if rows > 1 and retargets is None else single
        if workers is None and address is None and retargets is None:
            image_s = single.of(1, 1.0)
            suited = suited_fleet(config, pipe, image_s=image_s, note=progress.note)
            fleet = held.enter_context(suited)
        board.crew = fleet
        drawers = Drawers(batch, batch)
        if fleet is not None:
            count, rows = len(fleet), -(-rows // len(fleet))
            parts = [(train[:rows],)] * count
            list(board.spread(_price, parts))  # warms them up
            means = np.mean(list(board.spread(_price, parts)), axis=0).tolist()
            drawers = Drawers(batch, Price(*means), count)
    counted = CountedStages(config, drawers, (len(train), len(select)), fits=fits)
    calls = profile_calls(steps, config.cache.sites)
    shares = [float((modes == 0).mean()) * len(modes) / steps for modes in calls]
    profile = sum(single.of(1, share) for share in shares)
    facts, on_gpu = machine_facts(), pipe.device.type == "cuda"
    return TrainEstimate(
        config.id,
        str(facts["gpu"] if on_gpu else facts["cpu"]),
        on_gpu,
        drawers.worker.of(1, 1.0),
        rows if retargets is None else 1,
        single.of(1, 1.0),
        [Stage("profile", len(calls), profile), *(counted.stages() if retargets is None else [])],
        bool(config.world.loads) and retargets is None,
        drawers.workers,
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
