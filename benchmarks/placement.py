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
from typing import NamedTuple

import torch
from rich.progress import track
from torch import nn

from benchmarks.harness import ROOT, Benchmark, console, parser
from benchmarks.traces.agents import DEVICE_SHARES, STARTS, by_agent, by_rule, learn
from benchmarks.traces.course import Course
from benchmarks.traces.placers import CLASSIC, PLACERS
from benchmarks.traces.requests import FACTS, CallPrices, past_of, requests
from benchmarks.traces.standings import figures_of, table_of
from ditcache_rl.cache import compute_s_per_byte
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.shapes import load_pipeline

MEASURED = ROOT / "benchmarks" / "results" / "tiers-2cores.json"
#: Seeds of the requests; nothing is chosen on test requests.
TRAIN, TEST = range(1000, 1032), range(20)


class PlacementAmounts(NamedTuple):
    """How much is trained and judged."""

    seeds: int
    visits: int
    tests: int


QUICK = PlacementAmounts(2, 16384, 4)


def main() -> None:
    """Train, judge, and report."""
    less = f"{QUICK.seeds} seeds, {QUICK.visits} visits of training, {QUICK.tests} test requests"
    options = parser(__doc__, quick=less)
    options.add_argument("--seeds", type=int, default=5, help="trainings of each agent")
    options.add_argument("--visits", type=int, default=409_600, help="visits of each training")
    given = options.parse_args()
    full = PlacementAmounts(given.seeds, given.visits, len(TEST))
    amounts = QUICK if given.quick else full
    run = Benchmark()
    torch.set_num_threads(1)
    figures, details = measure(amounts)
    run.finish(figures, details, given.json, title="placement")


def measure(amounts: PlacementAmounts) -> tuple[dict[str, float], dict[str, object]]:
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
    console.print(table_of(figures, list(found)))
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


def measured_prices() -> CallPrices:
    """Price an entry of 1 MiB."""
    measured = json.loads(MEASURED.read_text())["details"]["seconds_by_mib"]["1"]
    transformer = load_pipeline().transformer
    blocks = nn.ModuleList(find_blocks(transformer))
    dtype = next(transformer.parameters()).dtype
    per_byte = compute_s_per_byte(blocks, transformer.inner_dim, dtype) / len(blocks)
    return CallPrices(measured["host_get"], per_byte * 2**20)


if __name__ == "__main__":
    main()
