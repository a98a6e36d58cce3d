"""Turn measurements into lines and frontiers into figures; pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from benchmarks.race.host import Entrant
from benchmarks.race.measure import Log
from ditcache_rl.evaluate import Spread, interpolate_frontier
from ditcache_rl.evaluate.curves import MOST_LABELLED
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.interval import mean_interval

#: Speed-ups and qualities at which frontiers are compared; the names are those of the figures.
SPEEDUPS = {"2x": 2.0, "3x": 3.0, "4_5x": 4.5}
QUALITIES_DB = (38, 35, 30)
#: Drawn whatever came out: what everybody can do, and what is shipped.
ALWAYS_DRAWN = ("fewer steps", "policy")

Number = float | None


class FrontierLine(TypedDict):
    """An entrant: times are medians, the rest means; `speedup` is against its own process."""

    contender: str
    family: str
    process: str
    knob: str
    value: float | int | str
    n: int
    seconds_per_image: Number
    speedup: Number
    psnr_db: dict[str, Any] | None
    ssim: dict[str, Any] | None
    lpips: dict[str, Any] | None
    executed_share: Number
    cache_bytes: int | None
    converted: bool
    error: str | None


def lines_of(entrants: Sequence[Entrant], log: Log) -> list[FrontierLine]:
    """Summarise every entrant, those that failed too."""
    return [_line(entrant, log) for entrant in entrants]


def _line(entrant: Entrant, log: Log) -> FrontierLine:
    contender, label = entrant.contender, entrant.label
    reference = Entrant(entrant.process).label
    line: FrontierLine = {
        "contender": "reference" if contender is None else contender.name,
        "family": "reference" if contender is None else contender.family,
        "process": entrant.process,
        "knob": "" if contender is None else contender.knob,
        "value": entrant.value,
        "n": 0,
        "seconds_per_image": None,
        "speedup": None,
        "psnr_db": None,
        "ssim": None,
        "lpips": None,
        "executed_share": None,
        "cache_bytes": None,
        "converted": contender is not None and contender.converted,
        "error": log.errors.get(label),
    }
    points = log.points.get(label, {})
    if line["error"] is not None or not points:
        return line
    base = float(np.median([point["reference_seconds"] for point in points.values()]))
    seconds = float(np.median([point["seconds"] for point in points.values()]))
    share = float(np.mean([point["share"] for point in points.values()]))
    line |= {
        "n": len(points),
        "seconds_per_image": seconds,
        "speedup": base / seconds,
        "psnr_db": _spread(points.values(), "psnr_db"),
        "ssim": _spread(points.values(), "ssim"),
        "executed_share": share if math.isfinite(share) else None,
        "cache_bytes": max(0, log.peak_bytes[label] - log.peak_bytes[reference]),
    }
    if "lpips" in next(iter(points.values())):
        line["lpips"] = _spread(points.values(), "lpips")
    return line


def _spread(points: Any, name: str) -> dict[str, Any]:
    values = np.array([point[name] for point in points])
    spread = Spread.of(values)
    return {"mean": spread.mean, "p5": spread.p5, "ci95": mean_interval(values).ends}


def curves(lines: Sequence[FrontierLine]) -> dict[str, list[FrontierLine]]:
    """Group the lines that were measured by contender, by rising speed-up."""
    found: dict[str, list[FrontierLine]] = {}
    for line in lines:
        if line["error"] is None and line["n"] and line["family"] != "reference":
            found.setdefault(line["contender"], []).append(line)
    return {name: sorted(own, key=lambda line: line["speedup"] or 0) for name, own in found.items()}


def foremost(named: Mapping[str, Sequence[FrontierLine]]) -> list[str]:
    """Choose the contenders that a picture of few lines shows, in the order of `named`.

    They are those of `ALWAYS_DRAWN`, and of each family the best at each of `SPEEDUPS`, the middle
    one first.
    """
    families = dict.fromkeys(curve[0]["family"] for curve in named.values())
    chosen = dict.fromkeys(name for name in ALWAYS_DRAWN if name in named)
    for speedup in sorted(SPEEDUPS.values(), key=lambda x: abs(x - 3.0)):
        for family in families:
            own = {n: at_speedup(c, speedup) for n, c in named.items() if c[0]["family"] == family}
            best = _best(own)
            if best and len(chosen) < MOST_LABELLED:
                chosen[best[0]] = None
    return [name for name in named if name in chosen]


def at_speedup(
    curve: Sequence[FrontierLine], speedup: float, metric: str = "psnr_db", part: str = "mean"
) -> float:
    """Interpolate a contender at a speed-up; nan beyond its fastest entrant."""
    points = [(1 / (line["speedup"] or 1), (line[metric] or {})[part]) for line in curve]  # type: ignore[literal-required]
    return interpolate_frontier(points, 1 / speedup)


def at_quality(curve: Sequence[FrontierLine], least_db: float) -> float:
    """Interpolate the highest speed-up that keeps a mean PSNR; nan if no entrant does.

    Where even the fastest entrant keeps it, that one's speed-up.
    """
    faster: tuple[float, float] | None = None
    for line in reversed(curve):
        speedup, quality = line["speedup"] or 1.0, (line["psnr_db"] or {})["mean"]
        if quality >= least_db:
            if faster is None:
                return speedup
            other, worse = faster
            return float(speedup * (other / speedup) ** ((quality - least_db) / (quality - worse)))
        if faster is None or quality > faster[1]:  # what is slower and worse does not count
            faster = speedup, quality
    return float("nan")


def ends_above(curve: Sequence[FrontierLine], least_db: float) -> bool:
    """Tell whether even a contender's fastest entrant keeps a mean PSNR: it may go on."""
    return bool((curve[-1]["psnr_db"] or {})["mean"] >= least_db)


def figures_of(lines: Sequence[FrontierLine]) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare our best contender with the best of all others, at equal speed and equal quality.

    Converted models are left out of both sides, and entrants that only the first prompts were drawn
    with, whose mean is of these.

    Returns:
        The figures, and who they belong to: contender and value of the best on either side, and at
        a quality all that `end_above` it, of which nobody knows how fast they would keep it.
    """
    most = max((line["n"] for line in lines), default=0)
    named = curves([line for line in lines if line["n"] == most and not line["converted"]])
    sides = {"ours": {n: c for n, c in named.items() if c[0]["family"] in OURS}}
    sides["peer"] = {n: c for n, c in named.items() if n not in sides["ours"]}
    figures: dict[str, float] = {}
    who: dict[str, Any] = {}
    for tag, speedup in SPEEDUPS.items():
        for key, metric, part in (
            ("db", "psnr_db", "mean"),
            ("p5_db", "psnr_db", "p5"),
            ("ssim", "ssim", "mean"),
        ):
            best = {
                side: _best({n: at_speedup(c, speedup, metric, part) for n, c in own.items()})
                for side, own in sides.items()
            }
            who[f"{key}_{tag}"] = best
            figures |= {f"best_{side}_{key}_{tag}": one[1] for side, one in best.items() if one}
            if best["ours"] and best["peer"]:
                figures[f"ahead_{key}_{tag}"] = best["ours"][1] - best["peer"][1]
    for quality in QUALITIES_DB:
        above = [name for name, curve in named.items() if ends_above(curve, quality)]
        best = {
            side: _best({n: at_quality(c, quality) for n, c in own.items()})
            for side, own in sides.items()
        }
        who[f"x_{quality}db"] = {**best, "end_above": above}
        for side, one in best.items():
            if one:
                mark = "_at_least" if one[0] in above else ""
                figures[f"{side}_x_{quality}db{mark}"] = one[1]
    everybody = {line["contender"] for line in lines if line["family"] not in (*OURS, "reference")}
    figures["peers_failed_count"] = len(everybody - set(curves(lines)))
    figures["peers_count"] = len(everybody)
    return figures, who


def standings(lines: Sequence[FrontierLine]) -> dict[str, dict[str, Number]]:
    """Interpolate every contender at the speed-ups and qualities; None where it has nothing."""

    def known(value: float) -> Number:
        return value if math.isfinite(value) else None

    return {
        name: {f"db_{tag}": known(at_speedup(curve, x)) for tag, x in SPEEDUPS.items()}
        | {f"x_{quality}db": known(at_quality(curve, quality)) for quality in QUALITIES_DB}
        for name, curve in curves(lines).items()
    }


def _best(values: Mapping[str, float]) -> tuple[str, float] | None:
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    return max(known.items(), key=lambda item: item[1]) if known else None
