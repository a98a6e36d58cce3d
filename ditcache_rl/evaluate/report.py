"""Turn measurements into the report that `eval.py` writes; tables and pages are made of it."""

from __future__ import annotations

import math
from typing import TypedDict, cast

import numpy as np

from ditcache_rl.evaluate.methods import Family
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.stats import Spread, frontier_mix
from ditcache_rl.interval import mean_interval
from ditcache_rl.machine import machine_facts, version_facts
from ditcache_rl.schedules import modes_text
from ditcache_rl.types import Floats

#: What each family is compared with at equal time. A policy also has to beat static schedules.
_OPPONENTS: dict[Family, tuple[Family, ...]] = {
    "static": ("fewer-steps", "heuristic", "peer"),
    "learned": ("fewer-steps", "heuristic", "peer", "static"),
}

#: JSON has no nan: what could not be measured is null.
Number = float | None


class SpreadEntry(TypedDict):
    """Mean and tails over the images."""

    mean: Number
    p5: Number
    p95: Number


class ReferenceEntry(TypedDict):
    """The plain pipeline."""

    seconds_per_image: Number


class ReportLine(TypedDict):
    """A method at one setting: median times, mean `compute_share`; further metrics add keys."""

    method: str
    family: str
    target: str
    compute_share: Number
    seconds_per_image: Number
    speedup: Number
    psnr_db: SpreadEntry
    ssim: SpreadEntry
    lpips: SpreadEntry | None
    n: int


class Pair(TypedDict):
    """A method against the best that a family offers in the same mean time.

    `budget` is the share of full compute that the method spent. `gain_db` is null, with n = 0,
    where nothing of the family is as fast as the method; `gains_db` are those of the prompts.
    """

    method: str
    target: str
    against: str
    budget: Number
    gain_db: Number
    ci95: list[float] | None
    n: int
    gains_db: list[Number]


class DeadlineLine(TypedDict):
    """A method under a deadline: `psnr_db` is of the images in time, null where there are none."""

    method: str
    deadline_s: float
    kept_share: float
    psnr_db: SpreadEntry | None
    late_as_zero_db: Number
    seconds_per_image: Number
    n: int


class TraceLine(TypedDict):
    """What a controller did, by prompt, and what its cache held and served, per image.

    `modes` are letters as in schedule files: one text where every image is made alike, else one for
    each. `memory` is in bytes and reads.
    """

    method: str
    family: str
    target: str
    modes: list[str]
    memory: dict[str, float]


class Report(TypedDict):
    """The whole report."""

    env: str
    command: str
    machine: dict[str, str | int | None]
    versions: dict[str, str | None]
    prompts: list[str]
    seeds: list[int]
    num_inference_steps: int
    reference: ReferenceEntry
    rows: list[ReportLine]
    paired: list[Pair]
    deadlines: list[DeadlineLine]
    traces: list[TraceLine]
    profile: dict[str, float] | None
    notes: list[str]


def build_report(results: Results, *, env: str, command: str = "") -> Report:
    """Summarise measurements, and compare what is ours with every baseline at equal time.

    Args:
        results: What `evaluate` returned.
        env: Name of the environment, or of the pipeline.
        command: What was typed.
    """
    medians = np.median(results.seconds, axis=1)
    lines = [
        {
            "method": method.name,
            "family": method.family,
            "target": method.target,
            "compute_share": _number(results.compute_share[index].mean()),
            "seconds_per_image": _number(medians[index]),
            "speedup": _number(results.speedup[index]),
            **dict.fromkeys(("psnr_db", "ssim", "lpips")),
            **{name: _spread(values[index]) for name, values in results.quality.items()},
            "n": results.seconds.shape[1],
        }
        for index, method in enumerate(results.methods)
        if method.deadline_s is None
    ]
    return {
        "env": env,
        "command": command,
        "machine": machine_facts(),
        "versions": version_facts(),
        "prompts": list(results.prompts),
        "seeds": list(results.seeds),
        "num_inference_steps": results.num_inference_steps,
        "reference": {"seconds_per_image": _number(medians[0])},
        "rows": cast("list[ReportLine]", lines),
        "paired": _paired(results),
        "deadlines": _deadlines(results),
        "traces": _traces(results),
        "profile": None if results.profile is None else dict(results.profile),
        "notes": list(results.notes),
    }


def _deadlines(results: Results) -> list[DeadlineLine]:
    lines: list[DeadlineLine] = []
    for index, method in enumerate(results.methods):
        if method.deadline_s is None:
            continue
        seconds, psnr_db = results.seconds[index], results.psnr_db[index]
        kept = seconds <= method.deadline_s
        lines.append(
            {
                "method": method.name,
                "deadline_s": method.deadline_s,
                "kept_share": float(kept.mean()),
                "psnr_db": _spread(psnr_db[kept]) if kept.any() else None,
                "late_as_zero_db": _number(np.where(kept, psnr_db, 0.0).mean()),
                "seconds_per_image": _number(np.median(seconds)),
                "n": len(seconds),
            }
        )
    return lines


def _traces(results: Results) -> list[TraceLine]:
    lines: list[TraceLine] = []
    for index, traces in results.traces.items():
        method, modes = results.methods[index], [modes_text(one.modes) for one in traces]
        memory = {
            name: float(np.mean([one.memory[name] for one in traces])) for name in traces[0].memory
        }
        lines.append(
            {
                "method": method.name,
                "family": method.family,
                "target": method.target,
                "modes": modes[:1] if len(set(modes)) == 1 else modes,
                "memory": memory,
            }
        )
    return lines


def _paired(results: Results) -> list[Pair]:
    seconds, psnr = results.seconds.mean(axis=1), results.psnr_db.mean(axis=1)
    pairs: list[Pair] = []
    for index, method in enumerate(results.methods):
        for family in _OPPONENTS.get(method.family, ()):
            rivals = [i for i, m in enumerate(results.methods) if m.family == family]
            if not rivals:
                continue
            # The mix is chosen by means, then held for every image: choosing per image would let
            # the baseline pick with the reference in hand.
            points = [(float(seconds[i]), float(psnr[i])) for i in rivals]
            mix = frontier_mix(points, float(seconds[index]))
            used = np.flatnonzero(mix)
            pair: Pair = {
                "method": method.name,
                "target": method.target,
                "against": family,
                "budget": _number(results.compute_share[index].mean()),
                "gain_db": None,
                "ci95": None,
                "n": 0,
                "gains_db": [],
            }
            if not np.isnan(mix).any():
                baseline = mix[used] @ results.psnr_db[np.array(rivals)[used]]
                gains = results.psnr_db[index] - baseline
                gain = mean_interval(gains)
                pair["gain_db"] = _number(gain.mean)
                pair["ci95"] = gain.ends
                pair["n"] = gain.n
                pair["gains_db"] = [_number(one) for one in gains]
            pairs.append(pair)
    return pairs


def _spread(values: Floats) -> SpreadEntry:
    spread = Spread.of(values)
    return {"mean": _number(spread.mean), "p5": _number(spread.p5), "p95": _number(spread.p95)}


def _number(value: float) -> Number:
    return float(value) if math.isfinite(value) else None
