"""Several requests on one machine: which rule shares it best, what does an agent find by itself?

Requests come in bursts with deadlines to a simulated machine of eight rows; images have the quality
that their gaps cost (`gaps.py`). A tick takes a second for each row that computes (*linear*), or
three seconds and one for each row (*batchy*). Load is arrivals over what full batches could serve
with every step computed. Every rule is tuned on traces of its own and judged on others, with and
without a barrier, behind which rows that are due wait for each other. Late and dropped requests
count as 0 dB; differences are paired by trace, with 95 % intervals.

Differences end in `_REGIME_LOAD_db`, the lower ends of their intervals in `_REGIME_LOAD_low_db`.
`serve_rule_over_fixed`: of the best rule over the best fixed schedule on a machine without a
barrier; `serve_rule_over_fixed_behind_barrier`: on one with it. `serve_barrier_gain`: of the best
rule behind it over the best without. `serve_server_minus_rule`: of what a server should run, which
is not tuned, from the best rule. `serve_ppo_minus_rule`: of an agent that learned at both loads.
`serve_rule_over_fixed_db` is the least at the higher load, `serve_ppo_minus_rule_db` of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from benchmarks.harness import Benchmark, Lines, console, parser
from benchmarks.worlds.gaps import shapes_fronts
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.queueing import (
    Answered,
    ChosenAtAdmission,
    FairShare,
    FittingPrice,
    FixedSchedule,
    PressurePrice,
    Rule,
    TickCosts,
    Traffic,
    serve,
)
from ditcache_rl.rl import Service
from ditcache_rl.rl.serve_learn import learn_prices
from ditcache_rl.types import Floats

ROWS = 8
#: What a call takes beside its rows, over what a row takes.
REGIMES = {"linear": 0.0, "batchy": 3.0}
LOADS = (1.5, 3.0)
#: At which the figures are that have no load in their name.
BUSY = LOADS[-1]
TUNE_SEED, TEST_SEED, LEARN_SEED = 1, 2, 3


class ServingAmounts(NamedTuple):
    """How much is played."""

    traces: int
    """To judge on."""
    tuning: int
    """Traces to tune on."""
    ticks: int
    """For an agent to learn in."""


FULL = ServingAmounts(512, 24, 300_000)
QUICK = ServingAmounts(64, 12, 60_000)


class Tuned(NamedTuple):
    """A rule with its best settings, and how it did on the traces that judge."""

    kind: str
    together: bool
    settings: str
    tuning_db: float
    psnr_db: Floats
    """(traces,) means over requests."""
    line: dict[str, Any]


def figures(quick: bool) -> dict[str, float]:
    """Measure, and return the figures alone."""
    return measure(QUICK if quick else FULL)[0]


def measure(
    amounts: ServingAmounts, regimes: Sequence[str] = tuple(REGIMES)
) -> tuple[dict[str, float], Lines]:
    """Tune and judge every rule on every board, and let an agent learn in each regime."""
    fronts, lines = shapes_fronts(), Lines()
    found: dict[str, dict[tuple[str, float], Interval]] = {}
    for regime in regimes:
        ticks = TickCosts.affine(ROWS, REGIMES[regime], 1.0)
        service = Service(fronts, ticks, loads=LOADS, requests=40)
        console.print(f"{regime}: an agent learns")
        agent = learn_prices(service, amounts.ticks, seed=LEARN_SEED)
        for load in LOADS:
            board = replace(service, loads=(load,))
            tested = board.traffic(np.random.default_rng(TEST_SEED), amounts.traces)
            played = serve(tested, agent, fronts, ticks, together=True)
            learned = judged("ppo", True, "", np.nan, played)
            tuned = tune(board, amounts.tuning, tested, f"{regime} {load}")
            for one in [*tuned, learned]:
                lines.append({"regime": regime, "load": load} | one.line)
                console.print(" ".join(str(value) for value in lines[-1].values()))
            for name, gained in compared(tuned, learned).items():
                found.setdefault(name, {})[regime, load] = gained
    busy = {at: gained for at, gained in found["rule_over_fixed"].items() if at[1] == BUSY}
    least = {"rule_over_fixed": min(busy.values())}
    least["ppo_minus_rule"] = min(found["ppo_minus_rule"].values())
    named = [(f"serve_{name}", gained) for name, gained in least.items()]
    for name, everywhere in found.items():
        named += [(f"serve_{name}_{r}_{load:g}", one) for (r, load), one in everywhere.items()]
    figures = {f"{name}_db": gained.mean for name, gained in named}
    return figures | {f"{name}_low_db": gained.low for name, gained in named}, lines


def compared(tuned: list[Tuned], learned: Tuned) -> dict[str, Interval]:
    """Compare who was tuned and who learned on a board; the best is the best on tuning traces."""

    def best(*barriers: bool) -> Tuned:
        rules = [one for one in tuned if one.kind != "fixed" and one.together in barriers]
        return max(rules, key=lambda one: one.tuning_db)

    (fixed, fixed_behind), (server,) = (
        [one for one in tuned if one.kind == kind] for kind in ("fixed", "server")
    )
    return {
        "rule_over_fixed": difference(best(False, True), fixed),
        "rule_over_fixed_behind_barrier": difference(best(False, True), fixed_behind),
        "barrier_gain": difference(best(True), best(False)),
        "server_minus_rule": difference(server, best(False, True)),
        "ppo_minus_rule": difference(learned, best(False, True)),
    }


def tune(board: Service, traces: int, tested: Traffic, name: str) -> list[Tuned]:
    """Find the best settings of each kind of rule, without and behind a barrier, and judge them."""
    tuning = board.traffic(np.random.default_rng(TUNE_SEED), traces)
    found = []
    kinds = [(t, kind, rules) for t in (False, True) for kind, rules in candidates(board, t)]
    for together, kind, rules in track(kinds, description=name, console=console):

        def played(traffic: Traffic, rule: Rule, together: bool = together) -> Answered:
            return serve(traffic, rule, board.fronts, board.ticks, together=together)

        scores = [float(played(tuning, rule).psnr_db.mean()) for rule in rules]
        best = int(np.argmax(scores))
        served = played(tested, rules[best])
        found.append(judged(kind, together, settings_of(rules[best]), scores[best], served))
    return found


def candidates(board: Service, together: bool) -> list[tuple[str, list[Rule]]]:
    """List the settings of each kind of rule among which traces choose."""
    fronts, ticks = board.fronts, board.ticks
    # Above nine computes the shipped schedules gain next to nothing.
    shares = [FairShare(ticks, share, most=9) for share in (0.7, 1.0, 1.4)]
    prices = [(price, power) for price in (0.3, 0.6) for power in (1.0, 1.5)]
    margins = (0.85, 1.0, 1.15)
    rules: list[tuple[str, list[Rule]]] = [
        ("fixed", [FixedSchedule(computes) for computes in range(5, 10)]),
        ("admission", [ChosenAtAdmission(share) for share in shares]),
        ("fair", [*shares]),
        ("pressure", [PressurePrice(fronts, ticks, together, *one) for one in prices]),
        ("fitting", [FittingPrice(fronts, ticks, together, margin) for margin in margins]),
    ]
    return [*rules, ("server", [FittingPrice(fronts, ticks, together)])] if together else rules


def settings_of(rule: Rule) -> str:
    """Write down the numbers of a rule."""
    own = rule.share if isinstance(rule, ChosenAtAdmission) else rule
    values = {field.name: getattr(own, field.name) for field in fields(own)}  # type: ignore[arg-type]  # rules are dataclasses
    return ", ".join(
        f"{name} {value:g}" for name, value in values.items() if type(value) in (int, float)
    )


def judged(kind: str, together: bool, settings: str, tuning_db: float, served: Answered) -> Tuned:
    """Write down what a rule did on the traces that judge."""
    psnr_db = served.psnr_db.mean(axis=1)
    found = mean_interval(psnr_db)
    line = {
        "rule": kind,
        "barrier": together,
        "settings": settings,
        "psnr_db": round(found.mean, 3),
        "ci95_db": round(found.high - found.mean, 3),
        "dropped_share": round(float(np.isinf(served.finish_s).mean()), 5),
        "computes": round(float(served.computes[np.isfinite(served.finish_s)].mean()), 3),
    }
    return Tuned(kind, together, settings, tuning_db, psnr_db, line)


def difference(one: Tuned, other: Tuned) -> Interval:
    """Compare two rules trace by trace."""
    return mean_interval(one.psnr_db - other.psnr_db)


def main() -> None:
    """Measure, and report."""
    less = f"{QUICK.traces} traces instead of {FULL.traces}, less tuning and learning"
    built = parser(__doc__, quick=less)
    built.add_argument("--only", nargs="+", choices=REGIMES, default=list(REGIMES), help="regimes")
    options = built.parse_args()
    run = Benchmark()
    torch.set_num_threads(1)
    found, lines = measure(QUICK if options.quick else FULL, options.only)
    run.finish(found, lines, options.json, title="serving")


if __name__ == "__main__":
    main()
