"""What keeping deadlines rests on: coefficients and costs of gaps, and the ends of a call."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditcache_rl.bench import Board, Case
from ditcache_rl.bench.run import read_kept
from ditcache_rl.control import uniform_decision
from ditcache_rl.files import read_bytes, replacing
from ditcache_rl.machine import synchronize
from ditcache_rl.schedules import CostModel
from ditcache_rl.schedules.gaps import LONGEST, GapModel, schedule_on
from ditcache_rl.search.calibrate import fitted_gap_costs
from ditcache_rl.search.gap_costs import fit_costs, shaken_paths
from ditcache_rl.search.gaps import GapSearch
from ditcache_rl.types import HISTORY, Decision, Floats, Mode, RunInfo, StepInfo, Tick
from ditcache_rl.world import Prices

#: Rounds of paths that gap models are fitted on, paths of each, and train cases.
_ROUNDS, _PATHS, _CASES = 5, 48, 64
#: Images that the costs of gaps are scaled to.
_SCALED = 64
#: Of what a stage leaves: costs of a hundred steps have 8 MB.
_MOST_BYTES = 1 << 26


def gap_images(steps: int, cases: int) -> tuple[float, float, float]:
    """Tell what `fit_gaps` draws, as it is typically.

    Args:
        steps: Denoising steps.
        cases: Train cases that there are.

    Returns:
        Images of full compute that are recorded, as many as paths with their directions compute,
        and images under schedules.
    """
    lengths = np.arange(2, LONGEST + 1)
    # Until its third gap a path has fewer directions; of gaps without a step there are none.
    computed = lengths + HISTORY * (lengths - 1) * (lengths - 2) / 2
    return min(cases, _CASES), _ROUNDS * _PATHS * float(computed.mean()) / steps, _SCALED


def check_gaps(board: Board, case: Case) -> None:
    """Refuse, before hours of other work, a pipeline whose gaps can't be fitted.

    Raises:
        UnsupportedModelError: As `GapSearch`.
    """
    GapSearch(board, [case], rng=np.random.default_rng(0))


def fit_gaps(
    board: Board, cases: Sequence[Case], *, file: Path, seed: int, tick: Tick
) -> tuple[GapModel, Floats, Floats]:
    """Fit coefficients and costs of all gaps, or read what was fitted.

    Returns:
        The model, (T, T, T + 1) costs, (T + 1,) noise levels.
    """
    if file.exists():

        def read(kept: Path) -> tuple[GapModel, Floats, Floats]:
            with np.load(io.BytesIO(read_bytes(kept, _MOST_BYTES))) as saved:
                arrays = dict(saved)
            costs, sigmas = arrays.pop("costs"), arrays.pop("sigmas")
            return GapModel.from_arrays(arrays), costs, sigmas

        return read_kept(file, read)
    rng = np.random.default_rng(seed)
    search = GapSearch(board, cases[:_CASES], rng=rng)
    model = search.fit(
        rounds=_ROUNDS, paths=_PATHS, on_round=lambda share: tick(0.8 * share, "gaps of paths")
    )
    products = search.products()
    paths = shaken_paths(fitted_gap_costs(products), _SCALED, rng)
    drawn = [cases[index % len(cases)] for index in range(_SCALED)]
    schedules = [schedule_on(path, model, search.sigmas) for path in paths]
    tick(0.9, "images of paths")
    psnr_db = board.score(drawn, schedules).psnr_db
    costs = fit_costs(products, paths, psnr_db)
    with replacing(file) as part:
        np.savez(part, allow_pickle=False, costs=costs, sigmas=search.sigmas, **model.to_arrays())
    return model, costs, search.sigmas


class _Watch:
    """Computes everything, and notes when the call and each of its steps begin."""

    probe_blocks = 0

    def __init__(self) -> None:
        self.began: list[float] = []  # copies of it, of which every request has one, share it

    def reset(self, run: RunInfo) -> None:
        """Note when the pipeline was called."""
        self._run = run
        self.began[:] = [run.began]

    def decide(self, info: StepInfo) -> Decision:
        """Note when the step begins."""
        synchronize()
        self.began.append(time.perf_counter())
        return uniform_decision(self._run, Mode.COMPUTE)


def measure_ends(board: Board, case: Case, cost: CostModel, *, repeats: int = 9) -> Prices:
    """Measure what comes before the first step and after the last, over a step of the same call.

    So a machine that is slow for a while changes nothing. Together they are at least what the cost
    model says of a call beside its steps: on a busy machine steps may suffer more than the ends.
    """
    before, after = [], []
    for _ in range(repeats):
        watch = _Watch()
        seconds = board.draw([case], watch).seconds
        called, *steps = watch.began
        step = (steps[-1] - steps[0]) / (len(steps) - 1)
        before.append((steps[0] - called) / step)
        after.append((called + seconds - steps[-1]) / step - 1)
    unit = cost.site_s * cost.sites + cost.step_s
    first, last = float(np.median(before)), float(np.median(after))
    return Prices(first, cost.step_s / unit, max(0.0, last, cost.fixed_s / unit - first))
