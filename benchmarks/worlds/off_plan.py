"""What coefficients for any path lose against those that are fitted to the very schedule.

To fit one schedule takes as long as to draw some fifty images on each of the prompts that it is
fitted to, so what was fitted is kept beside the results. It depends on the pipeline and the path
alone, not on the policy that is judged: a file that was left incomplete is gone on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.harness import ROOT, Lines
from benchmarks.worlds.deadlines import LOADS
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.files import replacing
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.gaps import schedule_on
from ditcache_rl.search import GapFitter
from ditcache_rl.search.gap_costs import random_paths
from ditcache_rl.types import Floats
from ditcache_rl.world import Pacer

FITTED = ROOT / "benchmarks" / "results" / "off-plan-coefficients.safetensors"
_FIT, _JUDGE = 24, 24
#: Computes of paths that are compared.
_SHORTEST, _LONGEST = 3, 9
#: Images that are simulated for the paths of the replanner.
_PLAYED = 3000
#: Rows of a call: four times as many took half as long again for each, by the size of caches.
_ROWS = 8


def off_plan(
    board: Board, pacer: Pacer, config: EnvConfig, *, changing: int, anyhow: int
) -> tuple[dict[str, float], dict[str, Lines]]:
    """Compare both on paths that replanning leads to, and on random ones.

    Args:
        board: Of the pipeline, alone: its rows are set.
        pacer: Whose coefficients are judged, and whose rule replans.
        config: For prompts.
        changing: Paths of the rule that no plan made at the start has.
        anyhow: Random paths.

    Returns:
        Mean losses in dB, and a line per path.
    """
    board.rows = _ROWS
    rng = np.random.default_rng(0)
    paths = {
        "off_plan": _few(replanned_paths(pacer), changing),
        "random": _few(random_paths(board.steps, 40 * anyhow, rng, longest=_LONGEST), anyhow),
    }
    fitted = fitted_coefficients(board, config, [*paths["off_plan"], *paths["random"]])
    judged = cases_of(config, "test")[:_JUDGE]
    lines = {
        name: [_compared(board, pacer, judged, path, fitted[path]) for path in few]
        for name, few in paths.items()
    }
    losses = {
        f"{name}_loss_db": float(np.mean([float(line["loss_db"]) for line in found]))
        for name, found in lines.items()
    }
    return losses, lines


def replanned_paths(pacer: Pacer) -> list[ComputePath]:
    """List what the rule computes under mixed loads where it is not what any plan had."""
    requests = pacer.world.draw(LOADS["mixed"], _PLAYED, np.random.default_rng(0))
    counts = [requests.computed]
    while requests.step < requests.steps:
        requests.play(pacer.rule(requests.moment()))
        counts.append(requests.computed)
    taken = [tuple(np.flatnonzero(row).tolist()) for row in np.diff(counts, axis=0).T]
    plans = {pacer.placement.path(most) for most in range(1, requests.steps)}
    return [path for path in taken if path not in plans]


def fitted_coefficients(
    board: Board, config: EnvConfig, paths: Sequence[ComputePath], file: Path = FITTED
) -> dict[ComputePath, Floats]:
    """Fit coefficients to each path, (steps, HISTORY), unless the file has them already."""
    kept = load_file(file) if file.exists() else {}
    missing = [path for path in paths if _text(path) not in kept]
    fitter = GapFitter(board, cases_of(config, "train")[:_FIT]) if missing else None
    for path in missing:
        assert fitter is not None, "something is missing"
        kept[_text(path)] = np.nan_to_num(fitter.coefficients(path))
        with replacing(file) as part:
            save_file(kept, part)
    found = {path: kept[_text(path)] for path in paths}
    for path, coefficients in found.items():
        coefficients[list(path)] = np.nan
    return found


def _compared(
    board: Board, pacer: Pacer, judged: Sequence[Case], path: ComputePath, fitted: Floats
) -> dict[str, float | str]:
    both = Schedule.on_path(path, board.steps, fitted), schedule_on(path, pacer.gaps, pacer.sigmas)
    own, general = (float(board.score(judged, [one] * len(judged)).psnr_db.mean()) for one in both)
    return {
        "path": _text(path),
        "fitted_db": round(own, 2),
        "any_path_db": round(general, 2),
        "loss_db": round(own - general, 2),
    }


def _few(paths: Sequence[ComputePath], count: int) -> list[ComputePath]:
    asked = [path for path in paths if _SHORTEST <= len(path) <= _LONGEST]
    return list(dict.fromkeys(asked))[:count]


def _text(path: ComputePath) -> str:
    return " ".join(map(str, path))
