"""What coefficients for any path lose against those that are fitted to the very schedule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Lines
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.schedules import ComputePath
from ditcache_rl.search import GapFitter
from ditcache_rl.search.gap_costs import random_paths, shaken_paths
from ditcache_rl.search.gaps import schedule_on
from ditcache_rl.world import Pacer

_FIT, _JUDGE = 24, 24
#: Computes of paths that are compared.
_SHORTEST, _LONGEST = 3, 9


def off_plan(
    board: Board, pacer: Pacer, config: EnvConfig, *, count: int
) -> tuple[dict[str, float], dict[str, Lines]]:
    """Compare both on paths that changing plans lead to, and on random ones of as many computes.

    Returns:
        Mean losses in dB, and a line per path.
    """
    rng = np.random.default_rng(0)
    fitter = GapFitter(board, cases_of(config, "train")[:_FIT])
    judged = cases_of(config, "test")[:_JUDGE]
    changing = shaken_paths(pacer.costs + 1e-9, 40 * count, rng)
    anyhow = random_paths(board.steps, 40 * count, rng, longest=_LONGEST)
    lines: dict[str, Lines] = {}
    for name, paths in {"off_plan": changing, "random": anyhow}.items():
        asked = [path for path in paths if _SHORTEST <= len(path) <= _LONGEST][:count]
        lines[name] = [_compared(board, pacer, fitter, judged, path) for path in asked]
    losses = {
        f"{name}_loss_db": float(np.mean([float(line["loss_db"]) for line in found]))
        for name, found in lines.items()
    }
    return losses, lines


def _compared(
    board: Board, pacer: Pacer, fitter: GapFitter, judged: Sequence[Case], path: ComputePath
) -> dict[str, float | str]:
    own, anyhow = fitter.fit(path), schedule_on(path, pacer.gaps, pacer.sigmas)
    fitted, general = (
        float(board.score(judged, [one] * len(judged)).psnr_db.mean()) for one in (own, anyhow)
    )
    return {
        "path": " ".join(map(str, path)),
        "fitted_db": round(fitted, 2),
        "any_path_db": round(general, 2),
        "loss_db": round(fitted - general, 2),
    }
