"""Turn measurements into the report that `eval.py` writes, and into a table for the terminal."""

from __future__ import annotations

import math
from typing import TypedDict, cast

import numpy as np
from rich.table import Table

from ditcache_rl.evaluate.methods import FAMILIES, Family
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.stats import Spread, bootstrap_mean, frontier_mix
from ditcache_rl.machine import machine_facts, version_facts
from ditcache_rl.types import Floats

#: What each family is compared with at equal time. A policy also has to beat static schedules.
_OPPONENTS: dict[Family, tuple[Family, ...]] = {
    "static": ("fewer-steps", "heuristic", "peer"),
    "learned": ("fewer-steps", "heuristic", "peer", "static"),
}
_STYLES: dict[str, str] = {"learned": "bold green", "static": "cyan", "reference": "bold"}

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
    where nothing of the family is as fast as the method.
    """

    method: str
    target: str
    against: str
    budget: Number
    gain_db: Number
    ci95: list[Number] | None
    n: int


class DeadlineLine(TypedDict):
    """A method under a deadline: `psnr_db` is of the images in time, null where there are none."""

    method: str
    deadline_s: float
    kept_share: float
    psnr_db: SpreadEntry | None
    late_as_zero_db: Number
    seconds_per_image: Number
    n: int


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
    notes: list[str]


def build_report(
    results: Results, *, env: str, command: str = "", bootstrap_seed: int = 0
) -> Report:
    """Summarise measurements, and compare what is ours with every baseline at equal time.

    Args:
        results: What `evaluate` returned.
        env: Name of the environment, or of the pipeline.
        command: What was typed.
        bootstrap_seed: Of the confidence intervals.
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
        "paired": _paired(results, np.random.default_rng(bootstrap_seed)),
        "deadlines": _deadlines(results),
        "notes": list(results.notes),
    }


def render_table(report: Report) -> Table:
    """Lay a report out for the terminal, one line per method and setting."""
    images = report["rows"][0]["n"]
    table = Table(title=f"{report['env']}: {images} images, PSNR and SSIM against the reference")
    table.add_column("method")
    table.add_column("setting")
    with_lpips = report["rows"][0]["lpips"] is not None
    numeric = ["computed", "s / image", "speed-up", "PSNR dB", "p5", "SSIM"]
    for title in [*numeric, "LPIPS"] if with_lpips else numeric:
        table.add_column(title, justify="right")
    previous = ""
    for line in sorted(report["rows"], key=_place):
        if previous and line["family"] != previous:
            table.add_section()
        previous = line["family"]
        lpips = [_shown(line["lpips"]["mean"], ".3f")] if line["lpips"] is not None else []
        table.add_row(
            line["method"],
            line["target"],
            _shown(line["compute_share"], ".0%"),
            _shown(line["seconds_per_image"], ".3f"),
            _shown(line["speedup"], ".2f"),
            _shown(line["psnr_db"]["mean"], ".2f"),
            _shown(line["psnr_db"]["p5"], ".2f"),
            _shown(line["ssim"]["mean"], ".4f"),
            *lpips,
            style=_STYLES.get(line["family"]),
        )
    if report["notes"]:
        table.caption = "\n".join(report["notes"])
    return table


def render_deadlines(report: Report) -> Table:
    """Lay what was measured under deadlines out for the terminal, one line per method and deadline.

    PSNR is of the images in time.
    """
    table = Table(title="by the clock: PSNR of the images in time")
    table.add_column("method")
    for title in ("deadline", "in time", "PSNR dB", "p5", "late as 0", "median s"):
        table.add_column(title, justify="right")
    for line in report["deadlines"]:
        psnr = line["psnr_db"]
        table.add_row(
            line["method"],
            f"{line['deadline_s']:g} s",
            f"{line['kept_share']:.0%}",
            _shown(psnr and psnr["mean"], ".2f"),
            _shown(psnr and psnr["p5"], ".2f"),
            _shown(line["late_as_zero_db"], ".2f"),
            _shown(line["seconds_per_image"], ".3f"),
        )
    return table


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


def _paired(results: Results, generator: np.random.Generator) -> list[Pair]:
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
            }
            if not np.isnan(mix).any():
                baseline = mix[used] @ results.psnr_db[np.array(rivals)[used]]
                gain = bootstrap_mean(results.psnr_db[index] - baseline, generator)
                pair["gain_db"] = _number(gain.mean)
                pair["ci95"] = [_number(gain.low), _number(gain.high)]
                pair["n"] = gain.n
            pairs.append(pair)
    return pairs


def _place(line: ReportLine) -> tuple[int, str, float]:
    family = [str(name) for name in FAMILIES].index(line["family"])
    return family, line["method"], line["speedup"] or 0.0


def _spread(values: Floats) -> SpreadEntry:
    spread = Spread.of(values)
    return {"mean": _number(spread.mean), "p5": _number(spread.p5), "p95": _number(spread.p95)}


def _number(value: float) -> Number:
    return float(value) if math.isfinite(value) else None


def _shown(value: Number, form: str) -> str:
    return "-" if value is None else format(value, form)
