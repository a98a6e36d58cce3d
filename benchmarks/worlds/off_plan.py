"""What coefficients for any path lose against those that are fitted to the very schedule."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Lines
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.search import GapFitter
from ditcache_rl.search.gap_costs import shaken_paths
from ditcache_rl.search.gaps import schedule_on
from ditcache_rl.world import Pacer

_FIT, _JUDGE = 24, 24


def off_plan(board: Board, pacer: Pacer, config: EnvConfig, *, count: int) -> tuple[float, Lines]:
    """Compare both on paths that changing plans lead to: mean loss in dB, and a line per path."""
    rng = np.random.default_rng(0)
    fitter = GapFitter(board, cases_of(config, "train")[:_FIT])
    judged = cases_of(config, "test")[:_JUDGE]
    candidates = shaken_paths(pacer.costs + 1e-9, 40 * count, rng)
    paths = [path for path in candidates if 3 <= len(path) <= 9][:count]
    lines: Lines = []
    for path in paths:
        own = fitter.fit(path)
        anyhow = schedule_on(path, pacer.gaps, pacer.sigmas)
        fitted, general = (
            float(board.score(judged, [one] * len(judged)).psnr_db.mean()) for one in (own, anyhow)
        )
        lines.append(
            {
                "path": " ".join(map(str, path)),
                "fitted_db": round(fitted, 2),
                "any_path_db": round(general, 2),
                "loss_db": round(fitted - general, 2),
            }
        )
    return float(np.mean([float(line["loss_db"]) for line in lines])), lines
