"""What does the machinery around the blocks cost, and how well is time predicted?

Everything is measured on the embedded pipeline, 28 steps. Controllers are watched over, as they are
under `cached`.

`all_compute_overhead_share`: time of a call under the runner with every site computed, over that of
the plain pipeline, minus 1; median over pairs of calls whose order alternates.
`controller_decision_s`: time of one decision of the network controller (features, their host sync,
masks, network), at batch 1 inside real requests; median over steps.
`environment_overhead_share`: of the time of a batch of the vectorised environment, what is not
spent in the pipeline's own call: features, masks, hand-over between the threads, metrics, reward.
16 rows follow the evenly spaced schedule of a quarter of full compute; references and baselines are
there before the clock starts, as in training.
`profile_error_share`: largest relative error of the cost model on random schedules that it was not
fitted to, in shares of full compute.
"""

from __future__ import annotations

from benchmarks.costs.machinery import (
    ROWS,
    STEPS,
    OverheadAmounts,
    all_compute,
    decision,
    environment,
    profile,
)
from benchmarks.harness import Benchmark, parser
from ditcache_rl.bench import cases_of, draw
from ditcache_rl.config import load_env
from ditcache_rl.pipelines import open_pipeline

FULL, QUICK = OverheadAmounts(120, 10, 8, 7, 11), OverheadAmounts(10, 3, 2, 2, 5)


def main() -> None:
    """Measure all four, and report."""
    less = f"{QUICK.pairs} pairs of calls instead of {FULL.pairs}, and fewer of everything else"
    options = parser(__doc__, quick=less).parse_args()
    run = Benchmark()
    amounts = QUICK if options.quick else FULL

    config = load_env("shapes")
    source = config.pipeline
    pipe = open_pipeline(source.source, dtype=source.dtype, device=source.device)
    cases = cases_of(config, "train")
    draw(pipe, cases[:1], steps=STEPS, call=source.call)  # the first one compiles and allocates
    parts = {
        "all_compute_overhead_share": all_compute(pipe, config, cases[0], amounts),
        "controller_decision_s": decision(pipe, config, cases, amounts),
        "environment_overhead_share": environment(pipe, config, cases[:ROWS], amounts),
        "profile_error_share": profile(pipe, config, cases[0].prompt, amounts),
    }
    figures = {name: value for name, (value, _) in parts.items()}
    details = {name: detail for name, (_, detail) in parts.items()}
    run.finish(figures, details, options.json, title=f"overhead at {STEPS} steps")


if __name__ == "__main__":
    main()
