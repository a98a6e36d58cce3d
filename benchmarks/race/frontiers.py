"""Turn measurements into rows and frontiers into figures; pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from benchmarks.race.host import Setting
from benchmarks.race.measure import Log
from ditcache_rl.evaluate import bootstrap_mean, interpolate_frontier, spread_of

#: Speed-ups and qualities at which frontiers are compared; the names are those of the figures.
SPEEDUPS = {"2x": 2.0, "3x": 3.0, "4_5x": 4.5}
QUALITIES_DB = (38, 35, 30)
OURS = ("static", "learned")

Number = float | None


class Row(TypedDict):
    """A setting: times are medians, the rest means; `speedup` is against its own process."""

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
    error: str | None


def rows_of(settings: Sequence[Setting], log: Log) -> list[Row]:
    """Summarise every setting, those that failed too."""
    return [_row(setting, log) for setting in settings]


def _row(setting: Setting, log: Log) -> Row:
    contender, label = setting.contender, setting.label
    reference = Setting(setting.process).label
    row: Row = {
        "contender": "reference" if contender is None else contender.name,
        "family": "reference" if contender is None else contender.family,
        "process": setting.process,
        "knob": "" if contender is None else contender.knob,
        "value": setting.value,
        "n": 0,
        "seconds_per_image": None,
        "speedup": None,
        "psnr_db": None,
        "ssim": None,
        "lpips": None,
        "executed_share": None,
        "cache_bytes": None,
        "error": log.errors.get(label),
    }
    points = log.points.get(label, {})
    if row["error"] is not None or not points:
        return row
    # Against the reference of the same prompts, as the machine may change its pace meanwhile.
    base = [log.points[reference][number]["seconds"] for number in points]
    seconds = float(np.median([point["seconds"] for point in points.values()]))
    share = float(np.mean([point["share"] for point in points.values()]))
    row |= {
        "n": len(points),
        "seconds_per_image": seconds,
        "speedup": float(np.median(base)) / seconds,
        "psnr_db": _spread(points.values(), "psnr_db"),
        "ssim": _spread(points.values(), "ssim"),
        "executed_share": share if math.isfinite(share) else None,
        "cache_bytes": max(0, log.peak_bytes[label] - log.peak_bytes[reference]),
    }
    if "lpips" in next(iter(points.values())):
        row["lpips"] = _spread(points.values(), "lpips")
    return row


def _spread(points: Any, name: str) -> dict[str, Any]:
    values = np.array([point[name] for point in points])
    spread = spread_of(values)
    interval = bootstrap_mean(values, np.random.default_rng(0))
    return {"mean": spread.mean, "p5": spread.p5, "ci95": [interval.low, interval.high]}


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows that were measured by contender, by rising speed-up."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["error"] is None and row["n"] and row["family"] != "reference":
            found.setdefault(row["contender"], []).append(row)
    return {name: sorted(own, key=lambda row: row["speedup"] or 0) for name, own in found.items()}


def at_speedup(
    curve: Sequence[Row], speedup: float, metric: str = "psnr_db", part: str = "mean"
) -> float:
    """Interpolate a contender at a speed-up; nan beyond its fastest setting."""
    points = [(1 / (row["speedup"] or 1), (row[metric] or {})[part]) for row in curve]  # type: ignore[literal-required]
    return interpolate_frontier(points, 1 / speedup)


def at_quality(curve: Sequence[Row], least_db: float) -> float:
    """Interpolate the highest speed-up that keeps a mean PSNR; nan if no setting does.

    Where even the fastest setting keeps it, that one's speed-up.
    """
    best = float("nan")
    points = [(row["speedup"] or 1.0, (row["psnr_db"] or {})["mean"]) for row in curve]
    for index, (speedup, quality) in enumerate(points):
        if quality >= least_db:
            best = np.nanmax([best, speedup])
            for other, worse in points[index + 1 :]:
                if worse < least_db:
                    part = (quality - least_db) / (quality - worse)
                    between = speedup * (other / speedup) ** part
                    best = np.nanmax([best, between])
    return float(best)


def figures_of(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare our best contender with the best of all others, at equal speed and equal quality.

    Returns:
        The figures, and who they belong to.
    """
    named = curves(rows)
    ours = {n: c for n, c in named.items() if c[0]["family"] in OURS}
    theirs = {n: c for n, c in named.items() if n not in ours}
    figures: dict[str, float] = {}
    who: dict[str, Any] = {}
    for tag, speedup in SPEEDUPS.items():
        for key, metric, part in (
            ("db", "psnr_db", "mean"),
            ("p5_db", "psnr_db", "p5"),
            ("ssim", "ssim", "mean"),
        ):
            mine = _best({n: at_speedup(c, speedup, metric, part) for n, c in ours.items()})
            other = _best({n: at_speedup(c, speedup, metric, part) for n, c in theirs.items()})
            who[f"{key}_{tag}"] = {"ours": mine, "peer": other}
            if mine:
                figures[f"best_ours_{key}_{tag}"] = mine[1]
            if other:
                figures[f"best_peer_{key}_{tag}"] = other[1]
            if mine and other:
                figures[f"ahead_{key}_{tag}"] = mine[1] - other[1]
    for quality in QUALITIES_DB:
        mine = _best({n: at_quality(c, quality) for n, c in ours.items()})
        other = _best({n: at_quality(c, quality) for n, c in theirs.items()})
        who[f"x_{quality}db"] = {"ours": mine, "peer": other}
        if mine:
            figures[f"ours_x_{quality}db"] = mine[1]
        if other:
            figures[f"peer_x_{quality}db"] = other[1]
    peers = {row["contender"] for row in rows if row["family"] not in (*OURS, "reference")}
    figures["peers_failed_count"] = len(peers - set(theirs))
    figures["peers_count"] = len(peers)
    return figures, who


def standings(rows: Sequence[Row]) -> dict[str, dict[str, Number]]:
    """Interpolate every contender at the speed-ups and qualities; None where it has nothing."""

    def known(value: float) -> Number:
        return value if math.isfinite(value) else None

    return {
        name: {f"db_{tag}": known(at_speedup(curve, x)) for tag, x in SPEEDUPS.items()}
        | {f"x_{quality}db": known(at_quality(curve, quality)) for quality in QUALITIES_DB}
        for name, curve in curves(rows).items()
    }


def _best(values: Mapping[str, float]) -> tuple[str, float] | None:
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    return max(known.items(), key=lambda item: item[1]) if known else None
