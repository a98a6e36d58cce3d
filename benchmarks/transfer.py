"""How few episodes bring a policy of other environments to a new one.

At once the shipped policy does what it does in use: its plans are carried over by noise level
where it has none for the run. On a few train prompts of the new environment, one fitted search goes
on from there, and one from evenly spaced steps. After each number of candidates, what either would
ship is measured on test prompts, beside a dedicated policy, searched as `ditcache-rl search
--method fitted` does from more starts and with more candidates. An episode is an image of full
compute: cheaper ones count by what they compute, and the images of full compute that a search needs
count too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `python benchmarks/transfer.py` finds its neighbours

from benchmarks._report import Run, console, parser  # noqa: E402
from ditcache_rl.bench import Board, Case, board_of, cases_of  # noqa: E402
from ditcache_rl.config import EnvConfig, find_policy, load_env  # noqa: E402
from ditcache_rl.inference import KnownPlans, open_policy  # noqa: E402
from ditcache_rl.instrument.runner import denoiser_of  # noqa: E402
from ditcache_rl.pipelines import open_pipeline  # noqa: E402
from ditcache_rl.policy import Policy  # noqa: E402
from ditcache_rl.schedules import carry_plans  # noqa: E402
from ditcache_rl.schedules.forecast import Nodes, nodes_of, row_of  # noqa: E402
from ditcache_rl.schedules.patterns import step_patterns  # noqa: E402
from ditcache_rl.search import Calibration, Rollouts, Space, pay_up, planned_rows, proposals  # noqa: E402
from ditcache_rl.search.climb import first_rows  # noqa: E402
from ditcache_rl.search.fit import climb_nodes  # noqa: E402
from ditcache_rl.search.space import spaced  # noqa: E402
from ditcache_rl.types import Floats, Mode  # noqa: E402

#: Train prompts of a search, and test prompts.
TRAIN, TEST = 16, 24
#: Candidates after which an adaptation is measured, and those of the dedicated search.
CANDIDATES, DEDICATED = (1, 4, 16), 48
#: Decibels below the dedicated policy that count as its quality.
NEAR_DB = 0.3
_NONE: Mapping[str, Any] = MappingProxyType({})


class New(NamedTuple):
    """An environment that the policy was not made for."""

    steps: int
    options: Mapping[str, Any] = _NONE
    """How the pipeline is opened."""
    call: Mapping[str, Any] = _NONE
    scheduler: Mapping[str, Any] = _NONE
    """What differs in the configuration of the sampler."""
    computed: int = 5
    """Steps that schedules compute: a quarter of 20, 18 % of 28, a tenth of 50."""


ENVIRONMENTS = {
    "20_steps": New(20),
    "24_steps": New(24),
    "36_steps": New(36),
    "50_steps": New(50),
    "11_computed": New(28, computed=11),
    "shift_3": New(28, scheduler={"shift": 3.0}),
    "48_px": New(28, call={"height": 48, "width": 48}),
    "96_px": New(28, call={"height": 96, "width": 96}),
    "pruned": New(28, options={"prune": ["transformer.single_transformer_blocks.3"]}),
}


class Known(NamedTuple):
    """A schedule, and the weights of its forecasts if it has any."""

    nodes: Nodes
    weights: Floats | None


class Point(NamedTuple):
    """What a search would ship after some episodes."""

    candidates: int
    episodes: float
    psnr_db: float


class Meter:
    """Counts what a denoiser computes, in images of full compute."""

    def __init__(self, board: Board) -> None:
        self._board, self._rows = board, 0

    @property
    def episodes(self) -> float:
        """Images so far."""
        return self._rows / self._board.steps

    def __enter__(self) -> Self:
        """Begin to count."""
        denoiser = denoiser_of(self._board.pipe)
        self._handle = denoiser.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._handle.remove()

    def _note(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._rows += len(kwargs["hidden_states"])


def main() -> None:
    """Adapt to every environment, and report."""
    options = parser(__doc__).parse_args()
    run = Run()
    config = load_env("shapes")
    policy = open_policy(find_policy("shapes-ppo"))
    assert isinstance(policy, Policy)
    found = {}
    figures: dict[str, float] = {}
    for name, new in track(ENVIRONMENTS.items(), "environments", console=console):
        found[name] = entry = adapt(_board(config, new), config, policy, new.computed)
        console.print(_sheet(name, entry))
        made: Point = entry["dedicated"]
        figures[f"{name}_dedicated_db"] = made.psnr_db
        figures[f"{name}_dedicated_episodes_count"] = made.episodes
        for way in ("carried", "even"):
            points: list[Point] = entry[way]
            figures[f"{name}_{way}_at_once_db"] = points[0].psnr_db
            figures[f"{name}_{way}_db"] = points[-1].psnr_db
            enough = [p.episodes for p in points if p.psnr_db >= made.psnr_db - NEAR_DB]
            if enough:
                figures[f"{name}_{way}_episodes_count"] = enough[0]
    run.finish(figures, found, options.json, title="transfer")


def _board(config: EnvConfig, new: New) -> Board:
    """Set an environment up."""
    source = config.pipeline
    pipe = open_pipeline(source.source, device=source.device, **new.options)
    kind = type(pipe.scheduler)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **new.scheduler)
    board = Board.of(config, pipe, steps=new.steps)
    board.call = {**board.call, **new.call}
    return board


def adapt(board: Board, config: EnvConfig, policy: Policy, computed: int) -> dict[str, Any]:
    """Adapt to one environment from both starts, and make a policy for it alone.

    Args:
        board: The new environment.
        config: For its prompts.
        policy: Of other environments.
        computed: Steps that schedules compute, at most.
    """
    cases, test = cases_of(config, "train")[:TRAIN], cases_of(config, "test")[:TEST]
    board.prepare(test)
    space = Space(board.steps, 1)
    cold = [spaced(space, computed, between=Mode.FORECAST1), *first_rows(space, computed)]
    starts = {
        "carried": _carried(policy, board.sigmas(), computed),
        "even": [Known(nodes_of(row), None) for row in cold],
    }
    points = {
        way: adapted(board, cases, first, computed, partial(_score_db, board, test))
        for way, first in starts.items()
    }
    with Meter(board) as meter:
        rollouts = Rollouts(board, cases)
        calibration = Calibration(board, cases)
        proposed = [
            *planned_rows(calibration, space, computed),
            *proposals(calibration, space, computed),
        ]
        nodes = climb_nodes(
            rollouts,
            [nodes_of(row) for row in (*cold, *proposed)],
            evaluations=DEDICATED,
            rng=np.random.default_rng(0),
        )
        made = Known(nodes, rollouts.weights(nodes))
    dedicated = Point(DEDICATED, meter.episodes, _score_db(board, test, made))
    return {"nodes": nodes, "dedicated": dedicated} | points


def _carried(policy: Policy, sigmas: Floats, computed: int) -> list[Known]:
    """Return what the policy does in a run, and what each of its plans alone would have it do."""
    plans = [KnownPlans(policy.leveled, sites=1).at(sigmas)]
    plans += [carry_plans([one], sigmas, sites=1) for one in policy.leveled]
    rows = [plan.row(computed) for plan in plans]
    return [Known(nodes_of(row.patterns), row.weights) for row in rows]


def adapted(
    board: Board,
    cases: Sequence[Case],
    first: Sequence[Known],
    computed: int,
    score: Callable[[Known], float],
) -> list[Point]:
    """Search from some schedules on, and tell what would be shipped on the way."""
    rows = [pay_up(row_of(known.nodes, board.steps), computed, step_patterns(1)) for known in first]
    seen: list[tuple[float, Nodes, float]] = []
    with Meter(board) as meter:
        rollouts = Rollouts(board, cases)
        climb_nodes(
            rollouts,
            [nodes_of(row) for row in rows],
            evaluations=CANDIDATES[-1],
            rng=np.random.default_rng(0),
            on_evaluation=lambda nodes, error: seen.append((error, nodes, meter.episodes)),
        )
    points = [Point(0, 0.0, score(first[0]))]
    fits: dict[Nodes, tuple[float, float]] = {}
    for count in CANDIDATES:
        _, nodes, _ = min(seen[:count])
        if nodes not in fits:
            with Meter(board) as meter:
                fitted = Known(nodes, rollouts.weights(nodes))
            fits[nodes] = meter.episodes, score(fitted)
        fit, psnr = fits[nodes]
        points.append(Point(count, seen[:count][-1][2] + fit, psnr))
    return points


def _score_db(board: Board, cases: Sequence[Case], known: Known) -> float:
    """Return the mean PSNR against full compute; without weights, forecasts are Newton's lines."""
    row = row_of(known.nodes, board.steps)
    if known.weights is None:
        row = np.minimum(row, Mode.FORECAST1)
    weights = None if known.weights is None else [known.weights] * len(cases)
    modes = Space(board.steps, 1).modes(row)
    return float(board.score(cases, [modes] * len(cases), weights).psnr_db.mean())


def _sheet(name: str, entry: dict[str, Any]) -> Table:
    built = Table(title=f"{name}: PSNR on test prompts")
    for column in ("candidates", "carried: episodes", "dB", "even: episodes", "dB"):
        built.add_column(column, justify="right")
    for carried, even in zip(entry["carried"], entry["even"], strict=True):
        cells = [f"{x:.1f}" for point in (carried, even) for x in point[1:]]
        built.add_row(str(carried.candidates), *cells)
    made = entry["dedicated"]
    built.add_row(f"dedicated: {made.candidates}", f"{made.episodes:.1f}", f"{made.psnr_db:.1f}")
    return built


if __name__ == "__main__":
    main()
