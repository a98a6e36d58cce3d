"""A server under load: is everybody served, how much faster, and what becomes of deadlines?

`clients`: 32 ask the embedded pipeline over the loopback, one request after the other, by turns for
full compute and for twice the speed. Images are then drawn alone with the same decisions, and
compared bit by bit, and how far they are off is told. Memory is that of the server's process after
each turn.
`overload`: who asks while all places are taken tells how fast a refusal is.
`bursts`: requests at 1.3 times what the engine draws with full compute go to it directly, with
deadlines of 1.2 to 4 times what an image takes alone. Fixed schedules serve the same trace, up to
the one of the most computes that keeps as many deadlines. The same trace is then simulated with the
costs that the engine had measured by its end, and how far off that is is told. PSNR is that of the
images before they were rounded to 8 bits, as a policy knows it of its schedules.
`ray`: two workers on Ray play a batch and score its baselines, by turns with one alone, each on a
core of its own.
`drift`: weights change while every batch is audited, until the policy is switched off. Told is the
most audits that took: the strongest change must be noticed, weaker ones may leave the policy good
enough, as the details say.

`--only` runs some parts; each is kept once it is done, and `--resume` takes those that were, so
that all of them make one file.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import ditcache_rl as dc
from benchmarks.harness import ROOT, Benchmark, KeptParts, console, parser
from benchmarks.harness.report import machine, versions
from benchmarks.served.bursts import Burst, drawn_alone, full_rate, most_in_time, play, traffic_of
from benchmarks.served.clients import Exchange, crowd, rush, serving
from benchmarks.served.drift import drifts
from benchmarks.served.simulated import foretold
from benchmarks.served.workers import pin, rounds_of, scenarios_on, throughput_x
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy
from ditcache_rl.instrument.attachment import plain_call
from ditcache_rl.rl.fleet import Fleet, fleet_of
from ditcache_rl.serve.server import Engine, Painter, ServerSettings
from ditcache_rl.shapes import CALL, load_pipeline

RUNS = ROOT / "runs" / "serving"
CLIENTS, PLACES, ROWS = 32, 40, 4
#: With and without a policy, by turns.
ROUNDS = 2
#: Requests, one after the other, that find all places taken.
REFUSED = 20
#: Workers on Ray, and rows that they play at once, as an environment has by default.
WORKERS, BATCH = 2, 32
#: Changes of weights, over their standard deviation; of the first there is nothing to be noticed.
CHANGES = (0.0, 0.3, 0.6, 1.0)
#: Requests before weights change; after that, at most as many as may be audited.
BEFORE, AUDITED = 10, 20

Measured = tuple[dict[str, float], dict[str, Any]]


class ServedAmounts(NamedTuple):
    """How much is asked for."""

    seconds: float
    """Of clients."""
    compared: int
    """Images that are drawn once more, alone."""
    requests: int
    """In bursts."""
    images: int
    """That they ask for by turns."""
    changes: Sequence[float]
    turns: int
    """Of workers on Ray."""


FULL = ServedAmounts(180.0, 64, 240, 60, CHANGES, 5)
QUICK = ServedAmounts(20.0, 16, 32, 16, (0.0, 1.0), 1)


def main() -> None:
    """Serve, ask, compare, report."""
    options = parser(__doc__, quick="20 s of clients for 3 min, 32 requests with deadlines for 240")
    options.add_argument("--only", nargs="+", choices=[*PARTS], action="extend", help="parts")
    options.add_argument("--resume", action="store_true", help="take parts that were done before")
    given = options.parse_args()
    run = Benchmark()
    torch.set_num_threads(1)
    amounts = QUICK if given.quick else FULL
    kept = KeptParts(RUNS / ("quick" if given.quick else "full"), amounts, resume=given.resume)
    wanted = [name for name in PARTS if name in (given.only or PARTS) or name in kept]
    done = {name: kept.once(name, partial(_measured, name, amounts)) for name in wanted}
    figures = {name: value for found in done.values() for name, value in found["figures"].items()}
    details = {name: found["details"] for name, found in done.items()}
    run.finish(figures, details, given.json, title="A server under load")


def _measured(name: str, amounts: ServedAmounts) -> dict[str, Any]:
    """Measure a part, and note when parts are of other runs what they were measured with."""
    prompts = load_env("shapes").read_prompts("test")
    pipe: Any = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    now = {"commit": versions().get("commit"), "load": machine()["load"]}
    began = time.perf_counter()
    figures, details = PARTS[name](pipe, prompts, amounts)
    console.print(f"{name}:", {key: round(value, 4) for key, value in figures.items()})
    seconds = round(time.perf_counter() - began, 1)
    return {"figures": figures, "details": {**details, **now, "seconds": seconds}}


def _clients(pipe: Any, prompts: Sequence[str], amounts: ServedAmounts) -> Measured:
    """Measure clients that ask in turn."""
    plain, cached = list[Exchange](), list[Exchange]()
    taken_s, held = np.zeros(2), list[int]()
    with serving(*_options()) as server:
        crowd(server.url, prompts, clients=CLIENTS, seconds=1.0)  # first use of everything
        for _ in range(ROUNDS):  # by turns: whatever else the machine does falls on both
            for place, (part, speedup) in enumerate(((plain, 1.0), (cached, 2.0))):
                seconds = amounts.seconds / ROUNDS / 2
                found, took_s = crowd(
                    server.url, prompts, clients=CLIENTS, seconds=seconds, speedup=speedup
                )
                part += found
                taken_s[place] += took_s
                held.append(server.memory_bytes())
    failed = [asked for asked in (*plain, *cached) if asked.status != 200]
    off = [_off_alone(pipe, asked) for asked in _some(plain, cached, count=amounts.compared)]
    tails = [float(np.percentile([one.seconds for one in part], 95)) for part in (plain, cached)]
    rates = [len(plain) / taken_s[0], len(cached) / taken_s[1]]
    figures = {
        "failed_count": float(len(failed)),
        "identical_share": off.count(0) / len(off),
        "throughput_x": rates[1] / rates[0],
        "p95_x": tails[1] / tails[0],
        # The first two turns are the first of both kinds.
        "memory_growth_mb": (held[-1] - held[1]) / 1e6,
    }
    details = {
        "requests": [len(plain), len(cached)],
        "compared": len(off),
        "most_off_in_255": max(off),
        "images_per_s": rates,
        "p95_s": tails,
        "memory_mb": [round(one / 1e6, 1) for one in held],
        "failures": [[one.status, str(one.answer)[:200]] for one in failed[:5]],
    }
    return figures, details


def _options() -> list[str]:
    return ["--rows", str(ROWS), "--places", str(PLACES), "--patience-s", "3600"]


def _some(*parts: Sequence[Exchange], count: int) -> list[Exchange]:
    """Choose from those that were answered, evenly over time and from each part as many."""
    answered = [[one for one in part if one.status == 200] for part in parts]
    return [one for part in answered for one in part[:: -(-len(part) * len(parts) // count)]]


def _off_alone(pipe: Any, asked: Exchange) -> int:
    """Draw an image alone with the same decisions: the largest difference, of 255."""
    (data,) = asked.answer["data"]
    name, _, value = data["target"].partition("=")
    wanted: Any = {name: float(value)}
    with dc.cached(pipe, "shapes-ppo", **wanted):
        generator = torch.Generator().manual_seed(data["seed"])
        (alone,) = pipe(asked.body["prompt"], generator=generator, **CALL).images
    served = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
    both = [np.asarray(image, dtype=np.int64) for image in (alone, served)]
    return int(np.abs(both[0] - both[1]).max())


def _overload(pipe: Any, prompts: Sequence[str], amounts: ServedAmounts) -> Measured:
    """Measure refusals."""
    with serving(*_options()) as server:
        rushed, late = rush(server.url, prompts[0], requests=PLACES + 2 * ROWS, after=REFUSED)
    refused = [asked for asked in late if asked.status == 429]
    refused = refused or [asked for asked in rushed if asked.status == 429]
    statuses = sorted({one.status for one in (*rushed, *late)})
    if not set(statuses) <= {200, 429}:
        raise RuntimeError(f"expected images and refusals, received {statuses}")
    seconds = [one.seconds for one in refused]
    figures = {"overload_answer_s": float(np.percentile(seconds, 95))}
    return figures, {"refused": len(refused), "slowest_s": max(seconds)}


def _bursts(pipe: Any, prompts: Sequence[str], amounts: ServedAmounts) -> Measured:
    """Measure deadlines, by the engine and by fixed schedules."""
    plain, requests = plain_call(pipe), amounts.requests

    def draw(prompt: str, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        output = plain(pipe, prompt, generator=generator, output_type="pt", **CALL)
        image: torch.Tensor = output.images[0]
        return image

    began = time.perf_counter()
    references = drawn_alone(draw, prompts, amounts.images)
    image_s = (time.perf_counter() - began) / amounts.images
    policy = open_policy("shapes-ppo")
    engine = Engine(Painter(pipe, policy), ServerSettings(rows=ROWS, places=requests))
    engine.start()
    try:
        engine.ready.wait()
        images_per_s = full_rate(engine, prompts)
        traffic = traffic_of(requests, image_s, images_per_s, seed=0)
        ours = play(engine, traffic, prompts, references)
        assert engine._costs is not None, "it is ready"
        costs = copy(engine._costs)  # it learns on
        console.print(f"{image_s:.2f} s an image, {images_per_s:.2f} in a second; ours: {ours}")
        fixed = most_in_time(
            lambda computes: play(engine, traffic, prompts, references, computes=computes),
            [*policy.tables[policy.steps[0]]],
            ours.kept_share,
        )
    finally:
        engine.stop()
    as_many = [one for one in fixed.values() if one.kept_share >= ours.kept_share]
    told = {
        computes: foretold(policy, costs, traffic, rows=ROWS, computes=computes)
        for computes in (None, *fixed)
    }

    def beside(computes: int | None, measured: Burst) -> dict[str, float]:
        simulated = {f"simulated_{key}": value for key, value in told[computes]._asdict().items()}
        return {**measured._asdict(), **simulated}

    figures = {
        "deadline_kept_share": ours.kept_share,
        "simulator_off_db": abs(told[None].psnr_db - ours.psnr_db),
        "simulator_off_share": abs(told[None].kept_share - ours.kept_share),
    }
    if as_many:
        figures["quality_gain_db"] = ours.psnr_db - max(one.psnr_db for one in as_many)
    details = {
        "image_s": image_s,
        "images_per_s": images_per_s,
        "ours": beside(None, ours),
        "fixed": {str(computes): beside(computes, one) for computes, one in fixed.items()},
        "some_fixed_keeps_as_many": bool(as_many),
    }
    return figures, details


def _drift(pipe: Any, prompts: Sequence[str], amounts: ServedAmounts) -> Measured:
    """Measure how soon changed weights are noticed."""
    unchanged, *found = drifts(pipe, prompts, amounts.changes, before=BEFORE, most=AUDITED)
    told = [one.caught or AUDITED + 1 for one in found if one.caught or one is found[-1]]
    figures = {"drift_caught_requests": float(max(told))}
    figures["drift_false_alarms"] = float(unchanged.caught is not None)
    return figures, {"changes": [one._asdict() for one in (unchanged, *found)]}


def _ray(pipe: Any, prompts: Sequence[str], amounts: ServedAmounts) -> Measured:
    """Measure two workers and one of them alone."""
    config = load_env("shapes")
    with fleet_of(config, workers=WORKERS) as fleet:
        assert fleet is not None, "workers are asked for"
        pin(fleet)
        fleets = {1: Fleet(fleet._actors[:1]), WORKERS: fleet}
        found = rounds_of(scenarios_on(fleets, config), rows=BATCH, rounds=amounts.turns)
    return {"ray_throughput_x": throughput_x(found)}, {"rows": BATCH, "rounds": found}


PARTS: dict[str, Callable[[Any, Sequence[str], ServedAmounts], Measured]] = {
    "clients": _clients,
    "overload": _overload,
    "bursts": _bursts,
    "drift": _drift,
    "ray": _ray,
}


if __name__ == "__main__":
    main()
