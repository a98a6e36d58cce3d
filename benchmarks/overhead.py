"""What does the machinery around the blocks cost, and how well is time predicted?

Everything is measured on the embedded pipeline, 28 steps.

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

import copy
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.harness import Benchmark, console, parser
from ditcache_rl.bench import (
    Board,
    Case,
    budget_of,
    measure_profile,
)
from ditcache_rl.bench.profile import synchronize, timed_call
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import EnvConfig, find_policy, load_env
from ditcache_rl.control import (
    ActionSpace,
    AllCompute,
    Controller,
    NetworkController,
    PolicyNetwork,
)
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import load_policy
from ditcache_rl.rl import DenoiseVecEnv, Setting, Task
from ditcache_rl.rl.episodes import cases_of
from ditcache_rl.schedules import nominal_cost
from ditcache_rl.search import spaced_plan
from ditcache_rl.types import HISTORY, Decision, Mode, Modes, RunInfo, StepInfo, Tier

STEPS = 28
BUDGET_SHARE = 0.25
ROWS = 16
SCHEDULES = 5  # random ones that the cost model has to predict
NETWORK_CALLS = 500
SEED = 0


class Amounts(NamedTuple):
    """How often everything is measured."""

    pairs: int
    requests: int
    batches: int
    profile_repeats: int
    schedule_repeats: int


FULL, QUICK = Amounts(120, 10, 8, 7, 11), Amounts(10, 3, 2, 2, 5)


class Timed:
    """Times the decisions of another controller; copies of it share the list."""

    def __init__(self, inner: Controller) -> None:
        self.probe_blocks = inner.probe_blocks
        self.seconds: list[float] = []
        self._inner = inner

    def reset(self, run: RunInfo) -> None:
        """Start a request on a controller of its own."""
        self._inner = copy.copy(self._inner)
        self._inner.reset(run)

    def decide(self, info: StepInfo) -> Decision:
        """Decide, with nothing pending on the GPU before the clock starts."""
        synchronize()
        started = time.perf_counter()
        decision = self._inner.decide(info)
        self.seconds.append(time.perf_counter() - started)
        return decision


class ClockedBoard(Board):
    """Notes the seconds of every call under a controller that the pipeline itself took."""

    call_s: list[float]
    _decisions: Timed | None = None

    def draw_under(
        self, controller: Controller, cases: Sequence[Case]
    ) -> tuple[Tensor, RequestLog]:
        """Draw as ever; waiting for decisions is not the pipeline's time."""
        self._decisions = Timed(controller)
        return super().draw_under(self._decisions, cases)

    def draw(self, cases: Sequence[Case]) -> Tensor:
        """Draw as ever."""
        started = time.perf_counter()
        images = super().draw(cases)
        elapsed = time.perf_counter() - started
        if self._decisions is not None:
            self.call_s.append(elapsed - sum(self._decisions.seconds))
            self._decisions = None
        return images


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
    one_call(pipe, config, cases[0])  # the first one compiles and allocates
    parts = {
        "all_compute_overhead_share": all_compute(pipe, config, cases[0], amounts),
        "controller_decision_s": decision(pipe, config, cases, amounts),
        "environment_overhead_share": environment(pipe, config, cases[:ROWS], amounts),
        "profile_error_share": profile(pipe, config, cases[0].prompt, amounts),
    }
    figures = {name: value for name, (value, _) in parts.items()}
    details = {name: detail for name, (_, detail) in parts.items()}
    run.finish(figures, details, options.json, title=f"overhead at {STEPS} steps")


def one_call(pipe: Any, config: EnvConfig, case: Case) -> float:
    """Return the seconds of one call at batch 1."""
    generator = torch.Generator("cpu").manual_seed(case.seed)
    synchronize()
    started = time.perf_counter()
    pipe(
        case.prompt,
        num_inference_steps=STEPS,
        generator=generator,
        output_type="pt",
        **config.pipeline.call,
    )
    synchronize()
    return time.perf_counter() - started


def all_compute(
    pipe: Any, config: EnvConfig, case: Case, amounts: Amounts
) -> tuple[float, dict[str, object]]:
    """Compare plain calls with calls under the runner; attaching is outside of the clock."""
    seconds = np.empty((amounts.pairs, 2))
    for pair in track(range(amounts.pairs), "runner", console=console, transient=True):
        for attached in (False, True) if pair % 2 == 0 else (True, False):
            if attached:
                with BlockRunner(pipe, AllCompute(), TieredCache(), sites=config.cache.sites):
                    seconds[pair, 1] = one_call(pipe, config, case)
            else:
                seconds[pair, 0] = one_call(pipe, config, case)
    ratios = seconds[:, 1] / seconds[:, 0]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    return middle - 1, {
        "pairs": amounts.pairs,
        "ratio_quartiles": [low, middle, high],
        "plain_median_s": float(np.median(seconds[:, 0])),
        "runner_median_s": float(np.median(seconds[:, 1])),
    }


def decision(
    pipe: Any, config: EnvConfig, cases: Sequence[Case], amounts: Amounts
) -> tuple[float, dict[str, object]]:
    """Time the decisions of real requests, and the network apart from them."""
    name, controller, network = network_controller(config)
    timed = Timed(controller)
    blocks = config.cache.blocks
    with BlockRunner(pipe, timed, TieredCache(), sites=config.cache.sites, blocks=blocks):
        one_call(pipe, config, cases[0])
        timed.seconds.clear()
        request_s = [one_call(pipe, config, case) for case in cases[: amounts.requests]]
    observation = torch.zeros(1, network.features + network.head.out_features)
    alone = []
    with torch.inference_mode():
        for _ in range(NETWORK_CALLS):
            started = time.perf_counter()
            network(observation)
            alone.append(time.perf_counter() - started)
    return statistics.median(timed.seconds), {
        "policy": name,
        "decisions": len(timed.seconds),
        "p95_s": float(np.quantile(timed.seconds, 0.95)),
        "network_alone_s": statistics.median(alone),
        "share_of_request": sum(timed.seconds) / sum(request_s),
    }


def network_controller(config: EnvConfig) -> tuple[str, NetworkController, PolicyNetwork]:
    """Build the controller of the shipped policy, or one that nobody trained if there is none."""
    sites = config.cache.sites
    budget = budget_of(BUDGET_SHARE, STEPS * sites)
    try:
        policy = load_policy(find_policy())
    except ConfigError:
        name, actions = "untrained", ActionSpace.of(sites, config.tiers)
        network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits).eval()
        plan = spaced_plan(STEPS, sites)
    else:
        name, actions, network = find_policy().name, policy.manifest.actions, policy.network
        plan = policy.plans[STEPS]
    controller = NetworkController(
        actions, network, plan=plan.row(budget), budget=budget, latency_weight=0.0
    )
    return name, controller, network


def environment(
    pipe: Any, config: EnvConfig, cases: Sequence[Case], amounts: Amounts
) -> tuple[float, dict[str, object]]:
    """Time batches of the vectorised environment, and the pipeline's calls inside of them.

    A batch is timed from its end to the end of the next one. The environment begins a batch when
    the one before is done, so both times hold one beginning and one end.
    """
    sites = config.cache.sites
    board = ClockedBoard(
        pipe,
        STEPS,
        sites=sites,
        call=config.pipeline.call,
        rows=ROWS,
        blocks=config.cache.blocks,
    )
    board.call_s = []
    plan = spaced_plan(STEPS, sites)
    setting = Setting(config, board, nominal_cost(STEPS, sites), plan)
    budget = budget_of(BUDGET_SHARE, STEPS * sites)
    tasks = [Task(case, budget, 0.0) for case in cases]
    board.prepare(cases)
    setting.baseline(tasks)

    env = DenoiseVecEnv(setting, ROWS, itertools.cycle(tasks).__next__)
    actions = np.stack([plan.row(budget).patterns, np.full(STEPS, Tier.DEVICE)], axis=1)
    batch_s = []
    env.reset()
    board.call_s.clear()
    for _ in track(range(1 + amounts.batches), "environment", console=console, transient=True):
        started = time.perf_counter()
        for action in actions:
            env.step(np.repeat(action[None], ROWS, axis=0))
        batch_s.append(time.perf_counter() - started)
    env.close()
    shares = [1 - inside / whole for inside, whole in zip(board.call_s, batch_s, strict=False)][1:]
    return statistics.median(shares), {
        "rows": ROWS,
        "batches": amounts.batches,
        "shares": shares,
        "batch_median_s": statistics.median(batch_s[1:]),
        "overhead_per_step_s": statistics.median(
            share * whole / STEPS for share, whole in zip(shares, batch_s[1:], strict=True)
        ),
    }


def profile(
    pipe: Any, config: EnvConfig, prompt: str, amounts: Amounts
) -> tuple[float, dict[str, object]]:
    """Predict what share of full compute random schedules take, and measure them, interleaved.

    Full compute is drawn in every round: a share is what is promised, and what a machine whose
    speed drifts leaves alone.
    """
    call, blocks = config.pipeline.call, config.cache.blocks
    with console.status("profile"):
        cost = measure_profile(
            pipe,
            steps=STEPS,
            sites=config.cache.sites,
            repeats=amounts.profile_repeats,
            prompt=prompt,
            call=call,
            blocks=blocks,
        )
    rng = np.random.default_rng(SEED)
    full = np.zeros((STEPS, config.cache.sites), dtype=np.int8)
    drawn = [random_schedule(config.cache.sites, rng) for _ in range(SCHEDULES)]
    schedules = [full, *drawn]
    seconds = np.empty((amounts.schedule_repeats, len(schedules)))
    for repeat in track(range(len(seconds)), "schedules", console=console, transient=True):
        for index in (np.arange(len(schedules)) + repeat) % len(schedules):
            modes = schedules[index]
            seconds[repeat, index] = timed_call(
                pipe, modes, prompt=prompt, call=call, blocks=blocks
            )
    measured = np.median(seconds[:, 1:] / seconds[:, :1], axis=0)
    predicted = np.array([float(cost.share_of_reference(modes)) for modes in drawn])
    errors = predicted / measured - 1
    return float(np.abs(errors).max()), {
        "cost_model": cost.to_dict(),
        "repeats": amounts.schedule_repeats,
        "schedules": [
            {
                "computes": int((modes == Mode.COMPUTE).sum()),
                "forecasts": int((modes >= Mode.FORECAST1).sum()),
                "predicted_share": float(predicted[index]),
                "measured_share": float(measured[index]),
                "error_share": float(errors[index]),
            }
            for index, modes in enumerate(drawn)
        ],
    }


def random_schedule(sites: int, rng: np.random.Generator) -> Modes:
    """Draw budget, computed steps and the modes between, as the runner will carry them out."""
    modes = rng.integers(Mode.REUSE, Mode.FORECAST2 + 1, size=STEPS)
    computed = 1 + rng.choice(STEPS - 1, size=int(rng.integers(1, STEPS)), replace=False)
    modes[[0, *computed]] = Mode.COMPUTE
    # The runner lowers a forecast to the order that its history allows.
    known = np.cumsum(modes == Mode.COMPUTE).clip(max=HISTORY)
    return np.repeat(np.minimum(modes, known)[:, None], sites, axis=1).astype(np.int8)


if __name__ == "__main__":
    main()
