"""Do cheap measures of sensitivity tell what really hurts, and what do their grades buy?

Rank correlation is over sites and steps, against injection on the same prompts: one site reuses its
residual at one step, and the final image is measured. Grades from 10 prompts are compared with
grades from 40. The graded schedule computes what is graded high at every step and the rest at
intervals; how many sites get which grade, and what they do between, is chosen on train prompts. On
test prompts it is timed beside the plain pipeline, and its loss is in the article's sense: PSNR of
the cached image and of the plain one against a common ground truth, the same prompt and seed at
four times the steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.config import load_env
from ditcache_rl.control import Grade, StaticSchedule, grade_sites, graded_modes
from ditcache_rl.inference import open_pipeline
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.metrics import psnr_db, ssim
from ditcache_rl.search import Board, Case, cases_of
from ditcache_rl.sensitivity import (
    attention_sensitivity,
    gradient_sensitivity,
    injection_sensitivity,
    rank_correlation,
    typical,
)
from ditcache_rl.types import Floats, Mode, Modes

if TYPE_CHECKING:
    from benchmarks._report import Run, console, parser
else:
    from _report import Run, console, parser

Measured = TypeVar("Measured")

STEPS = 28
#: Steps of the ground truth over those of the reference.
FINER = 4
#: Steps between two refreshes of a medium site, as in the article; low sites wait twice as long.
MEDIUM_EVERY = 5
#: Shares of the sites that are graded low, and that are graded low or medium.
SHARES = ((1 / 3, 2 / 3), (0.2, 0.5), (0.0, 1 / 3))
#: What a site does between two refreshes.
BETWEEN = (Mode.REUSE, Mode.FORECAST1, Mode.FORECAST2)
#: A schedule may lose this much on train prompts: half of what it may lose on others, so that
#: what differs between prompts has room.
MOST_LOSS_DB = 0.15


class Amounts(NamedTuple):
    """How much is measured."""

    prompts: int
    """For the analysis; grades are compared with those of the largest of `SIZES`."""
    injection: int
    train: int
    """To choose the graded schedule on."""
    test: int
    pairs: int


FULL, QUICK = Amounts(10, 2, 16, 32, 40), Amounts(10, 1, 8, 16, 10)
#: Prompts whose grades are laid beside each other.
SIZES = (5, 10, 20, 40)


def main() -> None:
    """Measure all, and report."""
    less = f"{QUICK.injection} prompt for injection instead of {FULL.injection}, fewer images"
    options = parser(__doc__, quick=less).parse_args()
    run = Run()
    amounts = QUICK if options.quick else FULL

    config = load_env("shapes")
    source = config.pipeline
    pipe = open_pipeline(source.source, dtype=source.dtype, device=source.device)
    board = Board(pipe, STEPS, sites=len(find_blocks(pipe.transformer)), call=source.call, rows=32)
    cases, tests = cases_of(config, "train"), cases_of(config, "test")
    few = cases[: amounts.prompts]
    gradient, gradient_s = _clocked("gradient", partial(gradient_sensitivity, board, few))
    attention, attention_s = _clocked("attention", partial(attention_sensitivity, board, few))
    injection, injection_s = _clocked(
        "injection", partial(injection_sensitivity, board, cases[: amounts.injection])
    )
    truth, same = typical(injection), slice(amounts.injection)
    others = cases[amounts.prompts : max(SIZES)]
    rest, _ = _clocked("others", partial(gradient_sensitivity, board, others, seed=1))
    every = np.concatenate([gradient, rest])
    by_size = {size: np.nanmean(typical(every[:size]), axis=0) for size in SIZES}
    agreement = {size: _agreement(by_size[size], by_size[max(SIZES)]) for size in SIZES}
    graded = graded_policy(
        board,
        by_size[amounts.prompts],
        cases[: amounts.train],
        tests[: amounts.test],
        amounts.pairs,
    )
    figures = {
        "spearman_gradient": rank_correlation(typical(gradient[same]), truth),
        "spearman_attention": rank_correlation(typical(attention.drift[same]), truth),
        "grade_agreement_share": agreement[10],
        "analysis_s": gradient_s + attention_s,
        "graded_speedup_x": graded["speedup_x"],
        "graded_loss_db": graded["loss_db"],
    }
    details = {
        "steps": STEPS,
        "sites": board.sites,
        "prompts": amounts.prompts,
        "injection_prompts": amounts.injection,
        "seconds": {"gradient": gradient_s, "attention": attention_s, "injection": injection_s},
        "spearman_entropy": rank_correlation(typical(attention.entropy[same]), truth),
        "spearman_gradient_of_all_prompts": rank_correlation(typical(gradient), truth),
        "spearman_gradient_of_site_means": rank_correlation(
            np.nanmean(typical(gradient[same]), axis=0), np.nanmean(truth, axis=0)
        ),
        "spearman_injection_between_halves": _between_halves(injection),
        "agreement_with_40_prompts": {str(size): share for size, share in agreement.items()},
        "site_sensitivity_by_prompt": np.nanmean(every, axis=1).tolist(),
        "site_injection_by_prompt": np.nanmean(injection, axis=1).tolist(),
        "graded": graded,
    }
    run.finish(figures, details, options.json, title=f"sensitivity at {STEPS} steps")


def _clocked(name: str, measure: Callable[[], Measured]) -> tuple[Measured, float]:
    started = time.perf_counter()
    with console.status(name):
        found = measure()
    seconds = time.perf_counter() - started
    console.print(f"{name}: {seconds:.1f} s")
    return found, seconds


def _agreement(few: Floats, many: Floats) -> float:
    return float((grade_sites(few) == grade_sites(many)).mean())


def _between_halves(injection: Floats) -> float | None:
    """Tell how well the ground truth of half of the prompts predicts that of the other half."""
    half = len(injection) // 2
    if not half:
        return None
    return rank_correlation(typical(injection[:half]), typical(injection[half:]))


def graded_policy(
    board: Board,
    sensitivity: Floats,
    train: Sequence[Case],
    test: Sequence[Case],
    pairs: int,
) -> dict[str, Any]:
    """Choose a graded schedule on train prompts, and tell on test prompts what it gains and loses.

    Args:
        board: Pipeline, steps and sites.
        sensitivity: (sites,).
        train: What candidates are compared on.
        test: What the chosen one is measured on.
        pairs: How often it is timed.
    """
    finer = Board(board.pipe, FINER * STEPS, sites=board.sites, call=board.call, rows=board.rows)
    rows: list[dict[str, Any]] = []
    for (low, high), between in track(
        list(product(SHARES, BETWEEN)), "choose", console=console, transient=True
    ):
        modes = graded_modes(
            grade_sites(sensitivity, low=low, high=high),
            STEPS,
            medium_every=MEDIUM_EVERY,
            low_every=2 * MEDIUM_EVERY,
            between=between,
        )
        rows.append({"low": low, "high": high, "between": between.name, "modes": modes})
        rows[-1] |= _quality(board, finer, modes, train)
    fit = [row for row in rows if row["loss_db"] <= MOST_LOSS_DB]
    chosen = (
        min(fit, key=lambda row: (row["compute_share"], row["loss_db"]))
        if fit
        else min(rows, key=lambda row: row["loss_db"])
    )
    with console.status("graded schedule"):
        quality = _quality(board, finer, chosen["modes"], test)
    seconds = np.empty((pairs, 2))
    for pair in track(range(pairs), "time", console=console, transient=True):
        case = [test[pair % len(test)]]
        for graded in (False, True) if pair % 2 else (True, False):
            seconds[pair, int(graded)] = _timed(board, chosen["modes"] if graded else None, case)
    grades = grade_sites(sensitivity, low=chosen["low"], high=chosen["high"])
    for row in rows:
        del row["modes"]
    return {
        "speedup_x": statistics.median(seconds[:, 0] / seconds[:, 1]),
        **quality,
        "chosen": chosen,
        "grades": [Grade(int(grade)).name for grade in grades],
        "pairs": pairs,
        "plain_median_s": float(np.median(seconds[:, 0])),
        "candidates_on_train_prompts": rows,
    }


def _quality(board: Board, finer: Board, modes: Modes, cases: Sequence[Case]) -> dict[str, Any]:
    truth, reference = finer.references(cases), board.references(cases)
    cached = _draw(board, modes, cases)
    plain, own = psnr_db(reference, truth), psnr_db(cached, truth)
    return {
        "loss_db": float((plain - own).mean()),
        "reference_to_truth_db": float(plain.mean()),
        "graded_to_truth_db": float(own.mean()),
        "graded_to_reference_db": float(psnr_db(cached, reference).mean()),
        "graded_to_reference_ssim": float(ssim(cached, reference).mean()),
        "compute_share": float((modes == Mode.COMPUTE).mean()),
        "images": len(cases),
    }


def _draw(board: Board, modes: Modes, cases: Sequence[Case]) -> Tensor:
    images = []
    for start in range(0, len(cases), board.rows):
        part = cases[start : start + board.rows]
        images.append(board.draw_under(StaticSchedule(modes), part)[0])
    return torch.cat(images)


def _timed(board: Board, modes: Modes | None, case: Sequence[Case]) -> float:
    """Return the seconds of one call; attaching is outside of the clock."""
    if modes is None:
        started = time.perf_counter()
        board.draw(case)
        return time.perf_counter() - started
    with BlockRunner(board.pipe, StaticSchedule(modes), TieredCache(), sites=board.sites):
        started = time.perf_counter()
        board.draw(case)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
