"""Several requests on one machine: which rule shares it best, what does an agent find by itself?

Requests come in bursts with deadlines to a simulated machine of eight rows; images have the quality
that their gaps cost (`gaps.py`). A tick takes a second for each row that computes (*linear*), or
three seconds and one for each row (*batchy*). Load is arrivals over what full batches could serve
with every step computed. Every rule is tuned on traces of its own and judged on others, with and
without a barrier, behind which rows that are due wait for each other. Late and dropped requests
count as 0 dB; differences are paired by trace, with 95 % intervals.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from benchmarks.harness import Benchmark, Lines, console, parser
from benchmarks.worlds.gaps import shapes_fronts
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


FULL = ServingAmounts(256, 24, 900_000)
QUICK = ServingAmounts(64, 12, 200_000)


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


def measure(amounts: ServingAmounts) -> tuple[dict[str, float], Lines]:
    """Tune and judge every rule on every board, and let an agent learn in each regime."""
    fronts, found, lines = shapes_fronts(), dict[str, float](), Lines()
    over_fixed, minus_rule = [], []
    for regime, call_over_row in REGIMES.items():
        service = Service(
            fronts, TickCosts.affine(ROWS, call_over_row, 1.0), loads=LOADS, requests=40
        )
        console.print(f"{regime}: an agent learns")
        agent = learn_prices(service, amounts.ticks, seed=LEARN_SEED)
        for load in LOADS:
            board = replace(service, loads=(load,))
            tested = board.traffic(np.random.default_rng(TEST_SEED), amounts.traces)
            tuned = tune(board, amounts.tuning, tested, f"{regime} {load}")
            played = serve(tested, agent, fronts, board.ticks, together=True)
            learned = judged("ppo", True, "", np.nan, played)
            for one in [*tuned, learned]:
                lines.append({"regime": regime, "load": load} | one.line)
                console.print(" ".join(str(value) for value in lines[-1].values()))
            rules = [one for one in tuned if one.kind != "fixed"]
            best = max(rules, key=lambda one: one.tuning_db)
            fixed, fixed_behind = (one for one in tuned if one.kind == "fixed")
            name = f"{regime}_{load:g}"
            over_fixed.append((load, difference(best, fixed)))
            minus_rule.append(difference(learned, best))
            found[f"serve_rule_over_fixed_{name}_db"] = over_fixed[-1][1][0]
            found[f"serve_rule_over_fixed_behind_barrier_{name}_db"] = difference(
                best, fixed_behind
            )[0]
            without, behind = (
                max((one for one in rules if one.together == together), key=lambda o: o.tuning_db)
                for together in (False, True)
            )
            found[f"serve_barrier_gain_{name}_db"] = difference(behind, without)[0]
            found[f"serve_ppo_minus_rule_{name}_db"] = minus_rule[-1][0]
    least = min(gain for load, gain in over_fixed if load == BUSY)
    summary = {
        "serve_rule_over_fixed_db": least[0],
        "serve_rule_over_fixed_low_db": least[1],
        "serve_ppo_minus_rule_db": min(minus_rule)[0],
        "serve_ppo_minus_rule_low_db": min(minus_rule)[1],
    }
    return summary | found, lines


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
    shares = [FairShare(ticks, share, most) for share in (0.7, 1.0, 1.4) for most in (7, 9)]
    prices = [(price, power) for price in (0.3, 0.6) for power in (1.0, 1.5)]
    fits = [(margin, least) for margin in (0.85, 1.0) for least in (0.2, 0.5)]
    return [
        ("fixed", [FixedSchedule(computes) for computes in range(5, 10)]),
        ("admission", [ChosenAtAdmission(share) for share in shares]),
        ("fair", [*shares]),
        ("pressure", [PressurePrice(fronts, ticks, together, *one) for one in prices]),
        ("fitting", [FittingPrice(fronts, ticks, together, *one) for one in fits]),
    ]


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
    value, low, _ = interval(psnr_db)
    line = {
        "rule": kind,
        "barrier": together,
        "settings": settings,
        "psnr_db": round(value, 3),
        "ci95_db": round(value - low, 3),
        "dropped_share": round(float(np.isinf(served.finish_s).mean()), 5),
        "computes": round(float(served.computes[np.isfinite(served.finish_s)].mean()), 3),
    }
    return Tuned(kind, together, settings, tuning_db, psnr_db, line)


def difference(one: Tuned, other: Tuned) -> tuple[float, float, float]:
    """Compare two rules trace by trace: mean and 95 % interval."""
    return interval(one.psnr_db - other.psnr_db)


def interval(values: Floats) -> tuple[float, float, float]:
    """Return the mean with its 95 % interval."""
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def main() -> None:
    """Measure, and report."""
    less = f"{QUICK.traces} traces instead of {FULL.traces}, less tuning and learning"
    options = parser(__doc__, quick=less).parse_args()
    run = Benchmark()
    torch.set_num_threads(1)
    found, lines = measure(QUICK if options.quick else FULL)
    run.finish(found, lines, options.json, title="serving")


if __name__ == "__main__":
    main()
