"""What would be gained by computing off the grid of steps, at times that are fitted too?

On the embedded pipeline, K of 28 steps. From steps found in several ways (those of `shapes-ppo`,
dynamic programs over gap costs), Gauss-Newton steps through the loop fit solvers to final latents
of train prompts: `grid` their coefficients alone, `times` the times that the denoiser is told too,
`all` likewise, with every past output and the share of the latents that is kept; `images` goes on
from the better of both on decoded images, and `ppo` moves what `times` does, from `grid`, by PPO on
what is added to it, at as many outputs of the denoiser (the form of arXiv 2512.22796). The best
start of each way is chosen on select prompts; test prompts are drawn once, at the end.

`WAY_gain_at_K_db`: PSNR on test prompts over the best of `grid`, which a schedule can hold; with
`_low` and `_high`, a paired 95 % interval. `grid_gain_at_K_db` is that of `grid` over the schedule
of `shapes-ppo`. To be worth having, free times must gain 0.3 dB, the interval above 0.

What is fitted is kept; `--resume` goes on after an interruption, `--only` takes some K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import ROOT, Benchmark, KeptParts, facts_of, parser
from benchmarks.learned.residual import ppo
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.interval import mean_interval
from ditcache_rl.policy import load_policy
from ditcache_rl.schedules import ComputePath, Schedule, ScheduleTable
from ditcache_rl.schedules.collapse import collapse, euler_steps
from ditcache_rl.schedules.forecast import path_coefficients
from ditcache_rl.search.calibrate import ErrorTable, Products, fitted_gap_costs, gap_costs
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.gaps import GapSearch
from ditcache_rl.search.paths import cheapest_path
from ditcache_rl.search.told import fit_solver
from ditcache_rl.shapes import CALL, load_pipeline
from ditcache_rl.types import HISTORY, Floats, Mode

STEPS, COUNTS = 28, (2, 4, 5, 6)
#: Images per call.
ROWS = 32
RUNS = ROOT / "runs" / "free-times"
#: What each way may move.
WAYS = {"times": ("times", "updates"), "all": ("times", "keeps", "updates")}


class Fits(NamedTuple):
    """How much is fitted."""

    train: int
    """Prompts that solvers are fitted to; `select` and `test` are those they are chosen and judged
    on."""
    select: int
    test: int
    rounds: int
    """Gauss-Newton steps of a way."""
    starts: int


FULL, QUICK = Fits(48, 64, 128, 6, 5), Fits(16, 16, 64, 2, 1)


def main() -> None:
    """Fit, choose, judge, and report."""
    less = ", ".join(
        f"{a} {name} instead of {b}" for name, a, b in zip(Fits._fields, QUICK, FULL, strict=True)
    )
    built = parser(__doc__, quick=less)
    built.add_argument("--only", nargs="+", type=int, choices=COUNTS, default=COUNTS, help="K")
    built.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    options = built.parse_args()
    run = Benchmark()
    fits = QUICK if options.quick else FULL
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    table = load_policy(find_policy("shapes-ppo")).tables[STEPS]
    facts = facts_of(pipe, table, fits._asdict())
    kept = KeptParts(RUNS / ("quick" if options.quick else "full"), facts, resume=options.resume)
    work = SolverFits(pipe, table, fits, kept)
    chosen = {count: work.choose(count) for count in options.only}
    figures: dict[str, float] = {}
    details: dict[str, Any] = {"amounts": fits._asdict(), "solvers": kept.done}
    for count, ways in chosen.items():
        psnr = {way: work.psnr("test", solver) for way, (_, solver) in ways.items()}
        for way, own in psnr.items():
            base = psnr["searched" if way == "grid" else "grid"]
            gain = mean_interval(own - base)
            if way != "searched":
                figures[f"{way}_gain_at_{count}_db"] = gain.mean
                figures[f"{way}_gain_at_{count}_low_db"] = gain.low
                figures[f"{way}_gain_at_{count}_high_db"] = gain.high
        details[f"at_{count}"] = {
            way: {"from": start, "test_db": psnr[way].tolist(), "times": solver.times.tolist()}
            for way, (start, solver) in ways.items()
        }
    run.finish(figures, details, options.json, title=f"{STEPS} steps, {fits.test} test prompts")


class SolverFits:
    """Fits solvers, and keeps them.

    Args:
        pipe: The pipeline.
        table: The searched schedules.
        fits: How much is fitted.
        kept: Has solvers by K, start and way, with the outputs of the denoiser that each took.
    """

    def __init__(self, pipe: Any, table: ScheduleTable, fits: Fits, kept: KeptParts) -> None:
        self.pipe, self._table, self._fits, self._kept = pipe, table, fits, kept
        config = load_env("shapes")
        self._cases = {
            part: cases_of(config, part)[: getattr(fits, part)]
            for part in ("train", "select", "test")
        }
        self._loops: dict[str, list[FreeLoop]] = {}
        self._every: list[FreeLoop] = []
        self._products: Products | None = None

    def loops(self, part: str) -> list[FreeLoop]:
        """Draw a part with full compute, once."""
        if part not in self._loops:
            self._loops[part] = [self._loop(rows) for rows in _parts(self._cases[part], ROWS)]
        return self._loops[part]

    def psnr(self, part: str, solver: FreeSolver) -> Floats:
        """Judge a solver: (cases,)."""
        return np.concatenate([loop.psnr(solver) for loop in self.loops(part)])

    def choose(self, count: int) -> dict[str, tuple[str, FreeSolver]]:
        """Fit in every way from every start, and return the best of each way with its start."""
        starts = dict(list(self._starts(count).items())[: self._fits.starts])
        loops, rounds = self.loops("train"), self._fits.rounds
        for name, path in starts.items():
            on_grid = partial(fit_solver, loops, self._on(path), ["updates"], rounds=rounds)
            grid = self._once(count, name, "grid", on_grid)
            for way, free in WAYS.items():
                start = grid if way == "times" else grid.with_history(max(count, HISTORY))
                self._once(count, name, way, partial(fit_solver, loops, start, free, rounds=rounds))
        best = {way: self._best(count, list(starts), [way]) for way in ("grid", *WAYS)}
        name, way = max((best[way][:2] for way in WAYS), key=lambda one: self._select(count, *one))
        latents = self._solver(count, name, way)
        on_images = partial(fit_solver, loops, latents, WAYS[way], rounds=rounds, images=True)
        self._once(count, name, "images", on_images)
        first = best["grid"][0]
        self._once(
            count,
            first,
            "ppo",
            lambda: ppo(
                [self._loop(rows) for rows in _parts(self._cases["train"], 8)],
                self._solver(count, first, "grid"),
                WAYS["times"],
                outputs=self._kept.done[_part(count, first, "times")]["outputs"],
            ),
        )
        chosen = {way: (best[way][0], self._solver(count, *best[way])) for way in best}
        chosen |= {"images": (name, self._solver(count, name, "images"))}
        chosen |= {"ppo": (first, self._solver(count, first, "ppo"))}
        return {"searched": ("searched", self._searched(count))} | chosen

    def _best(self, count: int, starts: Sequence[str], ways: list[str]) -> tuple[str, str]:
        pairs = [(name, way) for name in starts for way in ways]
        return max(pairs, key=lambda one: self._select(count, *one))

    def _select(self, count: int, name: str, way: str) -> float:
        def judge() -> float:
            return float(self.psnr("select", self._solver(count, name, way)).mean())

        return float(self._kept.once(f"{_part(count, name, way)}, select", judge))

    def _solver(self, count: int, name: str, way: str) -> FreeSolver:
        return FreeSolver.read(self._kept.done[_part(count, name, way)]["solver"])

    def _once(self, count: int, name: str, way: str, make: Callable[[], FreeSolver]) -> FreeSolver:
        """Fit what is not known, and keep it."""

        def fit() -> dict[str, Any]:
            before = self._outputs()
            return {"solver": make().write(), "outputs": self._outputs() - before}

        self._kept.once(_part(count, name, way), fit)
        return self._solver(count, name, way)

    def _outputs(self) -> int:
        return sum(loop.computes * len(loop.cases) for loop in self._every)

    def _loop(self, cases: Sequence[Case]) -> FreeLoop:
        self._every.append(FreeLoop(self.pipe, cases, steps=STEPS, call=CALL))
        return self._every[-1]

    def _starts(self, count: int) -> dict[str, ComputePath]:
        """Find steps in several ways; those that were found before are left out."""
        products = self._measured()
        fitted = fitted_gap_costs(products)
        lines = gap_costs(ErrorTable.of(products).displacement[Mode.FORECAST1])
        searched = self._schedule(count).path
        found = {
            "searched": searched,
            "fitted gaps": cheapest_path(fitted, count),
            "lines": cheapest_path(lines, count),
            "square roots": cheapest_path(np.sqrt(fitted), count),
        }
        for last in (searched[-1] - 2, searched[-1] + 2):
            found[f"last {last}"] = cheapest_path(fitted, count, last=min(last, STEPS - 1))
        seen = {tuple(int(step) for step in path): name for name, path in reversed(found.items())}
        return {name: path for path, name in reversed(seen.items())}

    def _measured(self) -> Products:
        if self._products is None:
            board = Board(self.pipe, STEPS, sites=1, call=CALL, rows=ROWS, blocks="transformer")
            search = GapSearch(board, self._cases["train"][:16], rng=np.random.default_rng(0))
            self._products = search.products()
        return self._products

    def _on(self, path: ComputePath) -> FreeSolver:
        """Return the solver of lines between computed steps."""
        sigmas = self._measured().sigmas
        coefficients = path_coefficients(path, sigmas, np.zeros((len(path), HISTORY)))
        return self._collapsed(Schedule.on_path(path, STEPS, coefficients))

    def _schedule(self, count: int) -> Schedule:
        return self._table[count].schedule

    def _searched(self, count: int) -> FreeSolver:
        return self._collapsed(self._schedule(count))

    def _collapsed(self, schedule: Schedule) -> FreeSolver:
        sigmas = self._measured().sigmas
        return FreeSolver.of(collapse(schedule, sigmas, euler_steps(sigmas)), HISTORY)


def _part(count: int, name: str, way: str) -> str:
    return f"{count} {name}, {way}"


def _parts(cases: Sequence[Case], rows: int) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), rows):
        yield cases[start : start + rows]


if __name__ == "__main__":
    main()
