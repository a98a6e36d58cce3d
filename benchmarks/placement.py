"""Does an agent that places entries in tiers beat the cache's own rule?

Requests of 50 steps and 40 sites whose refreshes nobody knows beforehand are replayed on the store,
with room on the device for a share of the entries. At every visit of a site an agent says where its
entry goes: where the cache would keep it, on the device as if it were sure to be read, to the host,
or nowhere. PPO trains it on train requests, once from the cache's own rule (a log-prior, to which
the network adds nothing at first) and once from nothing, from several seeds each; greedy, it is
judged on test requests of other seeds, beside Belady's plan, MRU, LRU, fixed tiers by sensitivity
and the cache's rule, and that rule with chances counted over the train requests.

`*_hit_share_C` is the share of the reads that a device served which holds C percent of the entries,
`*_request_C_s` the time that a request's loads and recomputed sites would take if nothing hid it: a
load as `tiers.py` measured it (1 MiB from the host), computing a site of the embedded pipeline as
the cache itself estimates it here. `headroom_share_C` is Belady minus default, and
`*_of_headroom_share_C` what of it the others take. Of an agent: the interquartile mean over seeds
with the 95 % interval of a bootstrap (rliable, arXiv 2108.13264).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.harness.seeds import iqm, stratified
from benchmarks.traces.placing import (
    CLASSIC,
    FACTS,
    PLACERS,
    Choice,
    Course,
    Past,
    PlacementEnv,
    Prices,
    Replay,
    Tally,
    past_of,
    placed,
    requests,
    tally_of,
)
from ditcache_rl.cache import compute_s_per_byte
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.shapes import load_pipeline
from ditcache_rl.types import Modes

DEVICE_SHARES = (0.25, 0.5)
MEASURED = ROOT / "benchmarks" / "results" / "tiers-2cores.json"
#: Seeds of the requests; nothing is chosen on test requests.
TRAIN, TEST = range(1000, 1032), range(20)
#: Requests that are played at the same time.
ROWS = 32
#: Probability of the cache's own rule at the start, where that is the prior.
TRUST = 0.6


class Start(NamedTuple):
    """Where an agent begins."""

    trusting: bool
    """With the cache's own rule, or with weights at random."""
    ent_coef: float
    """By which it is paid for trying; without, an agent from nothing ends as the rule, too."""


STARTS = {"agent": Start(trusting=True, ent_coef=0.0), "agent_cold": Start(False, ent_coef=0.02)}


class Amounts(NamedTuple):
    """How much is trained and judged."""

    seeds: int
    visits: int
    tests: int


QUICK = Amounts(2, 16384, 4)


def main() -> None:
    """Train, judge, and report."""
    less = f"{QUICK.seeds} seeds, {QUICK.visits} visits of training, {QUICK.tests} test requests"
    options = parser(__doc__, quick=less)
    options.add_argument("--seeds", type=int, default=5, help="trainings of each agent")
    options.add_argument("--visits", type=int, default=409_600, help="visits of each training")
    given = options.parse_args()
    full = Amounts(given.seeds, given.visits, len(TEST))
    amounts = QUICK if given.quick else full
    run = Benchmark()
    torch.set_num_threads(1)
    figures, details = measure(amounts)
    run.finish(figures, details, given.json, title="placement")


def measure(amounts: Amounts) -> tuple[dict[str, float], dict[str, object]]:
    """Return figures and details."""
    prices = measured_prices()
    train = requests(TRAIN)
    past, tests = past_of(train), requests(TEST[: amounts.tests])
    # (1, shares): rules have one seed
    found = {name: [by_rule(name, tests, past)] for name in (*PLACERS, *CLASSIC)}
    course, seconds = Course(train, DEVICE_SHARES, past), {}
    for name, start in STARTS.items():
        started = time.perf_counter()
        found[name] = []
        for seed in track(range(amounts.seeds), name, console=console, transient=True):
            agent = learn(course, amounts.visits, start=start, seed=seed)
            found[name].append(by_agent(agent, tests, past))
        seconds[name] = (time.perf_counter() - started) / amounts.seeds
    figures = figures_of(found, prices, len(tests))
    console.print(rows_of(figures, list(found)))
    details: dict[str, object] = {
        "prices": prices._asdict(),
        "facts": FACTS,
        "tests": len(tests),
        "training_s": seconds,
        "visits": amounts.visits,
        "per_seed": {
            name: [[t._asdict() for t in shares] for shares in seeds]
            for name, seeds in found.items()
        },
    }
    return figures, details


def measured_prices() -> Prices:
    """Price an entry of 1 MiB."""
    measured = json.loads(MEASURED.read_text())["details"]["seconds_by_mib"]["1"]
    transformer = load_pipeline().transformer
    blocks = nn.ModuleList(find_blocks(transformer))
    dtype = next(transformer.parameters()).dtype
    per_byte = compute_s_per_byte(blocks, transformer.inner_dim, dtype) / len(blocks)
    return Prices(measured["host_get"], per_byte * 2**20)


def learn(course: Course, visits: int, *, start: Start, seed: int) -> PPO:
    """Train an agent.

    Args:
        course: Requests to learn on.
        visits: That it plays.
        start: Where it begins.
        seed: Of requests, actions and weights.
    """
    env = DummyVecEnv([lambda: PlacementEnv(course)] * ROWS)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=lambda left: 2e-3 * max(left, 0.05),
        n_steps=256,
        batch_size=1024,
        n_epochs=4,
        # What a visit decides is seen at the next one, 40 visits later, and that of others before.
        gamma=0.99,
        gae_lambda=1.0,
        ent_coef=start.ent_coef,
        policy_kwargs={"net_arch": [32, 32]},
        seed=seed,
        device="cpu",
    )
    if start.trusting:
        trust(model)
    try:
        return model.learn(visits)
    finally:
        env.close()


def trust(model: PPO) -> None:
    """Let an agent begin with the cache's own rule, whatever it sees."""
    others = (1 - TRUST) / (len(Choice) - 1)
    prior = [TRUST if choice is Choice.RULE else others for choice in Choice]
    head = model.policy.action_net
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(prior).log())


def by_rule(name: str, schedules: Sequence[Modes], past: Past) -> list[Tally]:
    """Play requests by a rule: all their reads together, for each size of the device."""
    return [
        total([tally_of(name, modes, share, past) for modes in schedules])
        for share in DEVICE_SHARES
    ]


def by_agent(agent: PPO, schedules: Sequence[Modes], past: Past) -> list[Tally]:
    """Let an agent play requests, greedily and all at the same time."""
    lots = [[Replay(modes, share, past) for modes in schedules] for share in DEVICE_SHARES]
    replays = [replay for lot in lots for replay in lot]
    while not replays[0].done:
        actions, _ = agent.predict(np.stack([r.facts() for r in replays]), deterministic=True)
        for replay, action in zip(replays, actions.tolist(), strict=True):
            replay.play(placed(replay, Choice(action)))
    return [total([replay.tally for replay in lot]) for lot in lots]


def total(tallies: Sequence[Tally]) -> Tally:
    """Add up."""
    return Tally(*(sum(column) for column in zip(*tallies, strict=True)))


def figures_of(found: dict[str, list[list[Tally]]], prices: Prices, tests: int) -> dict[str, float]:
    """Summarise who found what: tallies by name, seed and size of the device."""
    rng = np.random.default_rng(0)
    figures: dict[str, float] = {}
    for column, share in enumerate(DEVICE_SHARES):
        size = round(100 * share)
        hits = {n: np.array([s[column].hit_share for s in seeds]) for n, seeds in found.items()}
        usual = float(hits["default"][0])
        headroom = float(hits["belady"][0]) - usual
        figures[f"headroom_share_{size}"] = headroom
        for name, seeds in found.items():
            tallies = [s[column] for s in seeds]
            figures[f"{name}_hit_share_{size}"] = iqm(hits[name])
            taken = (hits[name] - usual) / headroom
            figures[f"{name}_of_headroom_share_{size}"] = iqm(taken)
            if name in STARTS:
                interval = stratified(taken[:, None], iqm, rng)
                figures[f"{name}_of_headroom_share_low_{size}"] = interval["low"]
                figures[f"{name}_of_headroom_share_high_{size}"] = interval["high"]
            loads = iqm(np.array([t.loads for t in tallies]) / tests)
            figures[f"{name}_loads_count_{size}"] = loads
            seconds = iqm(np.array([t.seconds(prices) for t in tallies]) / tests)
            figures[f"{name}_request_{size}_s"] = seconds
    return figures


def rows_of(figures: dict[str, float], names: Sequence[str]) -> Table:
    """Lay out the contenders, best first."""
    built = Table(
        title="reads served by the device, and share of the headroom", title_justify="left"
    )
    built.add_column("who places")
    sizes = [round(100 * share) for share in DEVICE_SHARES]
    for size in sizes:
        for head in (f"at {size} %", "of headroom", "time"):
            built.add_column(head, justify="right")
    for name in sorted(names, key=lambda n: -figures[f"{n}_hit_share_{sizes[-1]}"]):
        cells = []
        for size in sizes:
            taken = f"{100 * figures[f'{name}_of_headroom_share_{size}']:.0f} %"
            if name in STARTS:
                low, high = (
                    100 * figures[f"{name}_of_headroom_share_{end}_{size}"]
                    for end in ("low", "high")
                )
                taken = f"{taken} [{low:.0f}, {high:.0f}]"
            cells += [
                f"{100 * figures[f'{name}_hit_share_{size}']:.2f} %",
                taken,
                f"{1e3 * figures[f'{name}_request_{size}_s']:.1f} ms",
            ]
        built.add_row(name, *cells)
    return built


if __name__ == "__main__":
    main()
