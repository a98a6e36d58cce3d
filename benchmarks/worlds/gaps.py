"""What the gaps of the embedded pipeline cost, measured once, and what that means in dB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import least_squares

from benchmarks.harness import ROOT
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import load_env
from ditcache_rl.policy import load_policy
from ditcache_rl.queueing import Fronts, Worth
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.search.calibrate import Products, fitted_gap_costs, measure_products
from ditcache_rl.shapes import load_pipeline
from ditcache_rl.types import Floats

TABLE = ROOT / "benchmarks" / "results" / "gap-costs-shapes.safetensors"
POLICY = ROOT / "policies" / "shapes-ppo"
STEPS = 28
#: Train prompts, and how many of them are drawn together.
PROMPTS, TOGETHER = 64, 32


def shapes_fronts() -> Fronts:
    """Take the cheapest path of so many computes to be worth what the shipped schedule reaches."""
    costs = load_file(TABLE)["costs"].double().numpy()
    lines = load_policy(POLICY).tables[STEPS]
    # A path of one compute has no two outputs to forecast from, and ships only where it must.
    known = {n: one.psnr_db for n, one in lines.items() if n > 1}
    return Fronts(costs, fitted_worth(costs, known))


def fitted_worth(costs: Floats, psnr_db: Mapping[int, float]) -> Worth:
    """Find what costs mean: the cheapest path of so many computes is worth what was measured.

    Args:
        costs: (T, T, T + 1) of gaps.
        psnr_db: By computes, more than one; the highest is that of an image without gaps.
    """
    begin, reached = np.zeros((), dtype=np.int64), np.array(list(psnr_db.values()))
    least = Placement(costs, len(costs)).least_costs(begin, begin, 0)[list(psnr_db)]

    def worth(logs: Floats) -> Worth:
        return Worth(float(reached.max()), *np.exp(logs).tolist())

    # Bend of a few dB, and a cost that is felt: from there every table so far was fitted.
    start = np.array([np.log(4.0), -np.log(np.median(least)), 0.0])
    return worth(least_squares(lambda logs: worth(logs).psnr_db(least) - reached, start).x)


def measure(file: Path = TABLE) -> None:
    """Measure the costs of all gaps, and write them."""
    config = load_env("shapes")
    board = Board.of(config, load_pipeline(), steps=STEPS)
    cases = cases_of(config, "train")[:PROMPTS]
    parts = [
        measure_products(board, cases[first : first + TOGETHER])
        for first in range(0, PROMPTS, TOGETHER)
    ]
    gram = np.concatenate([part.gram for part in parts])
    costs = fitted_gap_costs(Products(gram, parts[0].sigmas))
    save_file({"costs": torch.from_numpy(costs).float()}, file)


if __name__ == "__main__":
    measure()
