"""What runner, decisions and environment cost, and how well time is predicted."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from benchmarks.costs.clocks import ClockedBoard, Timed
from benchmarks.harness import console
from ditcache_rl.bench import Board, Case, draw, measure_profile
from ditcache_rl.bench.profile import timed_call
from ditcache_rl.config import EnvConfig, find_policy
from ditcache_rl.control import (
    ActionSpace,
    AllCompute,
    Controller,
    Guard,
    GuardedController,
    NetworkController,
    PolicyNetwork,
)
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import load_policy
from ditcache_rl.rl import DenoiseVecEnv, Scenario, Task
from ditcache_rl.schedules import computes_of, nominal_cost, spaced, spaced_table
from ditcache_rl.schedules.patterns import pattern_numbers
from ditcache_rl.types import HISTORY, Mode, Modes, Tier

STEPS = 28
BUDGET = 0.25
ROWS = 16
SCHEDULES = 5  # random ones that the cost model has to predict
NETWORK_CALLS = 500
SEED = 0


class OverheadAmounts(NamedTuple):
    """How often everything is measured."""

    pairs: int
    requests: int
    batches: int
    profile_repeats: int
    schedule_repeats: int


def all_compute(
    pipe: Any, config: EnvConfig, case: Case, amounts: OverheadAmounts
) -> tuple[float, dict[str, object]]:
    """Compare plain calls with calls under the runner; attaching is outside of the clock."""
    call, sites = config.pipeline.call, config.cache.sites
    seconds = np.empty((amounts.pairs, 2))
    for pair in track(range(amounts.pairs), "runner", console=console, transient=True):
        for attached in (False, True) if pair % 2 == 0 else (True, False):
            controller = guarded(AllCompute()) if attached else None
            drawn = draw(pipe, [case], controller, steps=STEPS, call=call, sites=sites)
            seconds[pair, int(attached)] = drawn.seconds
    ratios = seconds[:, 1] / seconds[:, 0]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    return middle - 1, {
        "pairs": amounts.pairs,
        "ratio_quartiles": [low, middle, high],
        "plain_median_s": float(np.median(seconds[:, 0])),
        "runner_median_s": float(np.median(seconds[:, 1])),
    }


def decision(
    pipe: Any, config: EnvConfig, cases: Sequence[Case], amounts: OverheadAmounts
) -> tuple[float, dict[str, object]]:
    """Time the decisions of real requests, and the network apart from them."""
    name, controller, network = network_controller(config)
    timed = Timed(guarded(controller))
    board = Board(
        pipe,
        STEPS,
        sites=config.cache.sites,
        call=config.pipeline.call,
        blocks=config.cache.blocks,
    )
    board.draw(cases[:1], timed)  # warms up
    timed.seconds.clear()
    request_s = [board.draw([case], timed).seconds for case in cases[: amounts.requests]]
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


def guarded(controller: Controller) -> Controller:
    """Watch over it as `cached` does where nobody asks for anything else."""
    return GuardedController(controller, Guard())


def network_controller(config: EnvConfig) -> tuple[str, NetworkController, PolicyNetwork]:
    """Build the controller of the shipped policy, or one that nobody trained if there is none."""
    sites = config.cache.sites
    computes = computes_of(BUDGET, STEPS * sites)
    try:
        policy = load_policy(find_policy())
    except ConfigError:
        name, actions = "untrained", ActionSpace.of(sites, config.tiers)
        network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits).eval()
        schedule = spaced(STEPS, sites, computes)
    else:
        assert policy.network is not None, "the policy that is shipped has one"
        name, actions, network = find_policy().name, policy.manifest.actions, policy.network
        schedule = policy.tables[STEPS].within(computes)
    controller = NetworkController(
        actions, network, schedule=schedule, computes=computes, latency_weight=0.0
    )
    return name, controller, network


def environment(
    pipe: Any, config: EnvConfig, cases: Sequence[Case], amounts: OverheadAmounts
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
    table = spaced_table(board.sigmas(), sites)
    scenario = Scenario(config, board, nominal_cost(STEPS, sites), table)
    computes = computes_of(BUDGET, STEPS * sites)
    tasks = [Task(case, computes, 0.0) for case in cases]
    board.prepare(cases)
    scenario.baseline(tasks)

    env = DenoiseVecEnv(scenario, ROWS, itertools.cycle(tasks).__next__)
    followed = pattern_numbers(table.within(computes).modes, scenario.actions.patterns)
    actions = np.stack([followed, np.full(STEPS, Tier.DEVICE)], axis=1)
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
    pipe: Any, config: EnvConfig, prompt: str, amounts: OverheadAmounts
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
    """Draw how many steps compute, which, and the modes between, as the runner carries them out."""
    modes = rng.integers(Mode.REUSE, Mode.FORECAST2 + 1, size=STEPS)
    computed = 1 + rng.choice(STEPS - 1, size=int(rng.integers(1, STEPS)), replace=False)
    modes[[0, *computed]] = Mode.COMPUTE
    # The runner lowers a forecast to the order that its history allows.
    known = np.cumsum(modes == Mode.COMPUTE).clip(max=HISTORY)
    return np.repeat(np.minimum(modes, known)[:, None], sites, axis=1).astype(np.int8)
