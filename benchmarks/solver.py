"""Is a collapsed schedule the same as its single steps, and as fast as a sampler of so few steps?

Everything is measured on the embedded pipeline, 28 steps, with the schedules of `shapes-ppo`.

`float64_difference_at_COUNT`, `float32_difference_at_COUNT`: largest difference of the final
latents, which are of order 1, between `cached()` with every step and collapsed, COUNT computed.
`WAY_extra_share`: time of a call with 3 computed over that of the plain pipeline at 3 steps, minus
1; median over rounds in which all ways take turns. Ways: `collapsed` is `cached(collapse=True)`,
`saved` the exported scheduler in a plain pipeline, `stepped` is `cached()` with every step.
`WAY_speedup_x`: time of the plain pipeline at 28 steps over that of a call, likewise; `fewer` is
the plain pipeline at 3 steps.
`two_branches_gain_at_COUNT_db`: with true guidance, two calls a step, PSNR of searched schedules
with fitted forecasts over those of reuse and Newton's, which stood in for them before; mean over
test prompts. `two_branches_gain_db` is the least of them.

Parts are `calls` (all times), `differences`, and the two searches, `fitted` and `newton`. `--only`
runs some of them; each is kept once it is done, and `--resume` takes those that were. How long each
will take is told beforehand.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import ditcache_rl as dc
from benchmarks.harness import ROOT, Benchmark, KeptParts, console, facts_of, parser
from benchmarks.zoo.double import in_double
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.inference import Target, policy_scheduler
from ditcache_rl.machine import synchronize
from ditcache_rl.pipelines import twin
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.schedules import Objective
from ditcache_rl.search import METHODS, Calibration, Problem, Trials
from ditcache_rl.shapes import CALL, load_pipeline

STEPS, FEW = 28, 3
COUNTS = (3, 5, 9, 14)
#: Computed steps at which forecasts are compared, and what the call takes for two branches.
GUIDED_COUNTS = (5, 7, 9)
GUIDANCE = {"true_cfg_scale": 3.0, "negative_prompt": ""}
#: A call takes a few hundredths of a second, and what else runs disturbs for longer.
WARM = 2
#: Searches of the guided parts, by part.
SEARCHES = {"fitted": "fitted", "newton": "polish"}
PARTS = ("calls", "differences", *SEARCHES)
#: Where parts that are done are kept.
RUNS = ROOT / "runs" / "solver"
#: Rows of a call of the searches.
ROWS = 16


class Amounts(NamedTuple):
    """How much is measured."""

    rounds: int
    prompts: int
    fitted: int
    """Train prompts that guided forecasts are fitted on."""
    judged: int
    """Test prompts that they are judged on."""
    evaluations: int
    """Schedules of either kind that are tried for each count."""


FULL, QUICK = Amounts(60, 4, 16, 32, 100), Amounts(12, 1, 4, 4, 16)


def main() -> None:
    """Measure, and report."""
    less = ", ".join(
        f"{a} {name} instead of {b}"
        for name, a, b in zip(Amounts._fields, QUICK, FULL, strict=True)
    )
    built = parser(__doc__, quick=less)
    built.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    built.add_argument("--resume", action="store_true", help="take parts that were done before")
    options = built.parse_args()
    run = Benchmark()
    amounts = QUICK if options.quick else FULL

    policy = load_policy(find_policy("shapes-ppo"))
    train, test = (cases_of(load_env("shapes"), part) for part in ("train", "test"))
    cases = test[: amounts.prompts]
    pipe = quiet_pipeline()
    few, many = train[: amounts.fitted], test[: amounts.judged]
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        "calls": lambda: times(seconds(pipe, policy, cases[0], amounts.rounds)),
        "differences": lambda: {
            "figures": differences(pipe, policy, cases, "float32")
            | differences(in_double(quiet_pipeline()), policy, cases, "float64")
        },
        **{
            part: lambda name=name: {"psnr_db": guided(pipe, few, many, amounts, name)}  # type: ignore[misc]
            for part, name in SEARCHES.items()
        },
    }
    facts = facts_of(pipe, policy.tables[STEPS], amounts._asdict())
    kept = KeptParts(RUNS / ("quick" if options.quick else "full"), facts, resume=options.resume)
    for part, expected in expected_s(pipe, cases[0], amounts).items():
        state = "kept" if part in kept else "now" if part in options.only else "not asked for"
        console.print(f"{part}: about {expected / 60:.1f} minutes, {state}")
    done = {
        part: kept.once(part, make)
        for part, make in parts.items()
        if part in options.only or part in kept
    }
    figures = {name: x for found in done.values() for name, x in found.get("figures", {}).items()}
    if done.keys() >= SEARCHES.keys():
        figures |= gains(done["fitted"]["psnr_db"], done["newton"]["psnr_db"])
    details = {"warm_up_rounds": WARM, "parts": done}
    run.finish(figures, details, options.json, title=f"{FEW} of {STEPS} steps computed")


def quiet_pipeline() -> Any:
    """Open the embedded pipeline."""
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def expected_s(pipe: Any, case: Case, amounts: Amounts) -> dict[str, float]:
    """Tell how long each part will take, from how long a call takes alone and with many rows."""

    def took(cases: Sequence[Case], steps: int) -> float:
        began = time.perf_counter()
        generators = [torch.Generator().manual_seed(one.seed) for one in cases]
        prompts = [one.prompt for one in cases]
        pipe(prompts, num_inference_steps=steps, generator=generators, output_type="pt", **CALL)
        return time.perf_counter() - began

    took([case], 1)
    alone = took([case], STEPS) / STEPS
    row = took([case] * ROWS, 2) / (2 * ROWS)
    # The call with every step and the four with three; all counts, both ways, and twice in float64.
    calls = (WARM + amounts.rounds) * (STEPS + 4 * FEW) * alone
    apart = amounts.prompts * 2 * sum(COUNTS) * 3 * alone
    # Two branches: what is tried, what is fitted at last, and the references.
    tried = amounts.evaluations * amounts.fitted * sum(GUIDED_COUNTS)
    references = (amounts.fitted + amounts.judged) * STEPS + amounts.judged * sum(GUIDED_COUNTS)
    search = 2 * row * (tried + references)
    return {"calls": calls, "differences": apart, "fitted": search, "newton": search}


def times(took: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Compare times of calls: figures, and what they are made of."""
    plain = took["fewer"]
    figures = {
        f"{way}_extra_share": float(np.median(took[way] / plain)) - 1
        for way in ("collapsed", "saved", "stepped")
    }
    figures |= {
        f"{way}_speedup_x": float(np.median(took["reference"] / took[way]))
        for way in took
        if way != "reference"
    }
    return {
        "figures": figures,
        "median_s": {way: float(np.median(own)) for way, own in took.items()},
        "call_s": {way: [round(one, 5) for one in own] for way, own in took.items()},
    }


def seconds(pipe: Any, policy: Policy, case: Case, rounds: int) -> dict[str, np.ndarray]:
    """Time whole calls, all ways in turn, the first one another one in every round: (rounds,) each.

    Attaching is not counted: a server attaches once.
    """
    budget = FEW / STEPS
    saved = twin(pipe)
    saved.scheduler = policy_scheduler(policy, pipe.scheduler, Target(budget=budget))
    collapsed, stepped = twin(pipe), twin(pipe)
    runs = [
        dc.attach(collapsed, policy, budget=budget, collapse=True),
        dc.attach(stepped, policy, budget=budget),
    ]
    ways = {
        "fewer": (pipe, FEW),
        "collapsed": (collapsed, STEPS),
        "saved": (saved, FEW),
        "stepped": (stepped, STEPS),
        "reference": (pipe, STEPS),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    turns = deque(ways)
    for _ in range(WARM + rounds):
        turns.rotate(1)
        for way in turns:
            one, steps = ways[way]
            synchronize(one.device)
            began = time.perf_counter()
            draw(one, case, steps, output_type="pt")
            synchronize(one.device)
            took[way].append(time.perf_counter() - began)
    for attached in runs:
        attached.detach()
    return {way: np.array(times[WARM:]) for way, times in took.items()}


def differences(pipe: Any, policy: Policy, cases: Sequence[Case], name: str) -> dict[str, float]:
    """Compare final latents of every step and collapsed."""
    found = {}
    for count in COUNTS:
        # A pipeline in float64 has another scheduler, and so a policy would refuse it.
        controller = StaticSchedule(policy.tables[STEPS][count].schedule)
        drawn: dict[bool, list[Tensor]] = {}
        for collapse in (False, True):
            with dc.cached(pipe, controller, blocks="transformer", collapse=collapse):
                drawn[collapse] = [draw(pipe, case, STEPS, output_type="latent") for case in cases]
        apart = torch.cat(drawn[False]) - torch.cat(drawn[True])
        found[f"{name}_difference_at_{count}"] = float(apart.abs().max())
    return found


def guided(
    pipe: Any, train: Sequence[Case], test: Sequence[Case], amounts: Amounts, search: str
) -> dict[str, list[float]]:
    """Search on a pipeline with two branches: PSNR of every test prompt, by computed steps."""
    call = {**CALL, **GUIDANCE}
    board = Board(pipe, STEPS, sites=1, call=call, rows=ROWS, blocks="transformer")
    trials, calibration = Trials(board, train, Objective()), Calibration(board, train)
    rng = np.random.default_rng(0)
    problem = Problem(trials, GUIDED_COUNTS, amounts.evaluations, rng, calibration)
    table = METHODS[search](problem)
    return {
        str(count): board.score(test, [table[count].schedule] * len(test)).psnr_db.tolist()
        for count in GUIDED_COUNTS
    }


def gains(
    fitted: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Compare two searches on the same prompts."""
    found = {
        f"two_branches_gain_at_{count}_db": float(np.mean(psnr_db) - np.mean(other[count]))
        for count, psnr_db in fitted.items()
    }
    return found | {"two_branches_gain_db": min(found.values())}


def draw(pipe: Any, case: Case, steps: int, *, output_type: str) -> Tensor:
    """Call the pipeline."""
    generator = torch.Generator().manual_seed(case.seed)
    options = {"generator": generator, "output_type": output_type, **CALL}
    images: Tensor = pipe(case.prompt, num_inference_steps=steps, **options).images
    return images


if __name__ == "__main__":
    main()
