"""A server under load: is everybody served, how much faster, and what becomes of deadlines?

Clients ask the embedded pipeline over the loopback, one request after the other: first for full
compute, then for twice the speed; images are then drawn alone with the same decisions, and
compared bit by bit. Who asks while all places are taken tells how fast a refusal is.
Bursts at 1.3 times what full compute could serve go to the engine directly, with deadlines of 1.2
to 4 times what an image takes alone; every fixed schedule serves the same trace, and the best one
is compared that keeps as many deadlines.
Two workers on Ray play a batch and score its baselines, by turns with one that is pinned to one
core. `--only` takes parts.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

import ditcache_rl as dc
from benchmarks.harness import Benchmark, console, parser
from benchmarks.served.bursts import Burst, drawn_alone, play, traffic_of
from benchmarks.served.clients import Exchange, crowd, rush, serving
from benchmarks.served.workers import RoundTimes, pin, rounds_of, scenarios_on, throughput_x
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy
from ditcache_rl.instrument.attachment import plain_call
from ditcache_rl.rl.fleet import Fleet, fleet_of
from ditcache_rl.serve.server import Engine, Painter, ServerSettings
from ditcache_rl.shapes import CALL, load_pipeline

CLIENTS, PLACES, ROWS = 32, 40, 4
#: With and without a policy, by turns.
ROUNDS = 2
#: Requests, one after the other, that find all places taken.
REFUSED = 20
#: Images that are drawn once more, alone.
COMPARED = 64
#: Computes of the fixed schedules.
FIXED = (2, 3, 4, 5, 6, 7, 9, 12)
FIXED_QUICK = (2, 4, 7)
#: Workers on Ray, what they play at once, and how often.
WORKERS, BATCH, TURNS, TURNS_QUICK = 2, 16, 5, 1
PARTS = ("clients", "bursts", "ray")


def main() -> None:
    """Serve, ask, compare, report."""
    quick = "20 s of clients for 3 min, 32 requests with deadlines for 96, 1 batch for 5"
    options = parser(__doc__, quick=quick)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    given = options.parse_args()
    run = Benchmark()
    torch.set_num_threads(1)
    prompts = load_env("shapes").read_prompts("test")
    pipe: Any = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    figures, details = dict[str, float](), dict[str, Any]()
    if "clients" in given.only:
        served, told = _served(pipe, prompts, seconds=20.0 if given.quick else 180.0)
        figures, details = figures | served, details | told
    if "bursts" in given.only:
        fixed = FIXED_QUICK if given.quick else FIXED
        kept, bursts = _bursts(pipe, prompts, requests=32 if given.quick else 96, fixed=fixed)
        figures, details = figures | kept, details | {"bursts": bursts}
    if "ray" in given.only:
        found = _workers(turns=TURNS_QUICK if given.quick else TURNS)
        figures, details = (
            figures | {"ray_throughput_x": throughput_x(found)},
            details | {"ray": {"rows": BATCH, "seconds": found}},
        )
    run.finish(figures, details, given.json, title="A server under load")


def _workers(*, turns: int) -> dict[int, list[RoundTimes]]:
    """Measure two workers and one of them alone."""
    config = load_env("shapes")
    with fleet_of(config, workers=WORKERS) as fleet:
        assert fleet is not None, "workers are asked for"
        pin(fleet)
        fleets = {1: Fleet(fleet._actors[:1]), WORKERS: fleet}
        return rounds_of(scenarios_on(fleets, config), rows=BATCH, rounds=turns)


def _served(
    pipe: Any, prompts: Sequence[str], *, seconds: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure clients that ask in turn, and refusals."""
    options = ("--rows", str(ROWS), "--places", str(PLACES), "--patience-s", "3600")
    with serving(*options) as url:
        console.print(f"{CLIENTS} clients, {seconds:g} s with and without a policy")
        crowd(url, prompts, clients=ROWS, seconds=1.0)  # first use of everything
        plain, cached = list[Exchange](), list[Exchange]()
        taken_s = np.zeros(2)
        for _ in range(ROUNDS):  # by turns: whatever else the machine does falls on both
            for place, (part, speedup) in enumerate(((plain, 1.0), (cached, 2.0))):
                found, took_s = crowd(
                    url, prompts, clients=CLIENTS, seconds=seconds / ROUNDS, speedup=speedup
                )
                part += found
                taken_s[place] += took_s
        rushed, late = rush(url, prompts[0], requests=PLACES + 2 * ROWS, after=REFUSED)
    refused = [asked for asked in late if asked.status == 429]
    refused = refused or [asked for asked in rushed if asked.status == 429]
    every = [*plain, *cached]
    failed = [asked for asked in every if asked.status != 200]
    failed += [asked for asked in (*rushed, *late) if asked.status not in (200, 429)]
    drawn = [asked for asked in cached if asked.status == 200][:: max(1, len(cached) // COMPARED)]
    same = [_is_same(pipe, asked) for asked in drawn]
    tails = [float(np.percentile([one.seconds for one in part], 95)) for part in (plain, cached)]
    rates = [len(plain) / taken_s[0], len(cached) / taken_s[1]]
    figures = {
        "failed_count": float(len(failed)),
        "identical_share": float(np.mean(same)),
        "throughput_x": rates[1] / rates[0],
        "p95_x": tails[1] / tails[0],
        "overload_answer_s": float(np.percentile([one.seconds for one in refused], 95)),
    }
    details = {
        "requests": [len(plain), len(cached)],
        "compared": len(same),
        "images_per_s": rates,
        "p95_s": tails,
        "refused": len(refused),
        "failures": [[one.status, str(one.answer)[:200]] for one in failed[:5]],
    }
    return figures, details


def _is_same(pipe: Any, asked: Exchange) -> bool:
    """Draw an image alone with the same decisions, and compare all bits."""
    (data,) = asked.answer["data"]
    name, _, value = data["target"].partition("=")
    wanted: Any = {name: float(value)}
    with dc.cached(pipe, "shapes-ppo", **wanted):
        generator = torch.Generator().manual_seed(data["seed"])
        (alone,) = pipe(asked.body["prompt"], generator=generator, **CALL).images
    served = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
    return np.array_equal(np.asarray(alone), np.asarray(served))


def _bursts(
    pipe: Any, prompts: Sequence[str], *, requests: int, fixed: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure deadlines, by the engine and by fixed schedules."""
    plain = plain_call(pipe)

    def draw(prompt: str, seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        image: Image.Image = plain(pipe, prompt, generator=generator, **CALL).images[0]
        return image

    began = time.perf_counter()
    references = drawn_alone(draw, prompts, requests)
    image_s = (time.perf_counter() - began) / requests
    console.print(
        f"{requests} requests in bursts, {image_s:.2f} s an image, {len(fixed)} schedules"
    )
    traffic = traffic_of(requests, image_s, seed=0)
    painter = Painter(pipe, open_policy("shapes-ppo"))
    engine = Engine(painter, ServerSettings(rows=ROWS, places=requests))
    engine.start()
    engine.ready.wait()
    ours = play(engine, traffic, prompts, references)
    others = {
        computes: play(engine, traffic, prompts, references, computes=computes)
        for computes in fixed
    }
    engine.stop()
    as_many = [one for one in others.values() if one.kept_share >= ours.kept_share]
    best: Burst = max(as_many or others.values(), key=lambda one: one.psnr_db)
    figures = {
        "deadline_kept_share": ours.kept_share,
        "quality_gain_db": ours.psnr_db - best.psnr_db,
    }
    details = {
        "image_s": image_s,
        "ours": ours._asdict(),
        "fixed": {str(computes): one._asdict() for computes, one in others.items()},
        "some_fixed_keeps_as_many": bool(as_many),
    }
    return figures, details


if __name__ == "__main__":
    main()
