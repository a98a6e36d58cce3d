"""Schedules that compute what is graded high: chosen on select prompts, judged on test prompts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.harness import console
from benchmarks.precision.drawn import STEPS, timer
from ditcache_rl.bench import Board, Case, Replay, cases_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.metrics import psnr_db, ssim
from ditcache_rl.schedules import Schedule
from ditcache_rl.search import GapFitter
from ditcache_rl.sensitivity import grade_sites, graded_modes
from ditcache_rl.types import Floats

#: What is cached where steps are graded.
DENOISER = "transformer"
#: Steps of the ground truth over those of the reference.
FINER = 4
#: Steps between two refreshes of a medium step: 5 as in the article, and less.
EVERY = (5, 3)
#: Shares of the steps that are graded medium, the largest first; the others are high.
SHARES = (0.75, 0.6, 0.45, 0.36, 0.3)
#: A schedule may lose this much on select prompts: half of what it may lose on others, so that
#: what differs between prompts has room.
MOST_LOSS_DB = 0.15
#: Prompts that forecasts are fitted on, and that a share is chosen on.
FITTED, CHOSEN = 16, 16


class TruthFitter(GapFitter):
    """Fits gap by gap as ever, and all gaps together to the final latents of a finer run.

    Args:
        board: Pipeline and steps.
        cases: What is drawn.
        finer: The same pipeline with more steps.
    """

    def __init__(self, board: Board, cases: Sequence[Case], finer: Board) -> None:
        super().__init__(board, cases)
        parts = [cases[start : start + board.rows] for start in range(0, len(cases), board.rows)]
        self._truth = torch.cat([_final(Replay(finer, part)) for part in parts])

    def _wrong(self, latents: Sequence[Tensor]) -> Tensor:
        return (self._truth - torch.cat(list(latents))).flatten(1).double()


def _final(replay: Replay) -> Tensor:
    """Return the final latents of full compute."""
    return replay.recorded()[-1]


def graded_policies(
    board: Board, config: EnvConfig, sensitivity: Floats, *, images: int, pairs: int
) -> dict[int, dict[str, Any]]:
    """Choose graded schedules, and tell on test prompts what they gain and lose.

    Args:
        board: Pipeline, steps and one site.
        config: For the prompts.
        sensitivity: (steps,); nan at the first, which is then high.
        images: Test prompts that are drawn.
        pairs: Calls that are timed, plain and under each schedule.
    """
    train, select, test = (cases_of(config, part) for part in ("train", "select", "test"))
    finer = Board(
        board.pipe, FINER * STEPS, sites=1, call=board.call, rows=board.rows, blocks=DENOISER
    )
    fitter = TruthFitter(board, train[:FITTED], finer)
    found: dict[int, dict[str, Any]] = {}
    chosen: dict[int, Schedule] = {}
    for every in EVERY:
        lines: list[dict[str, Any]] = []
        for share in track(SHARES, f"refresh {every}", console=console, transient=True):
            grades = grade_sites(sensitivity, low=0, high=share)
            graded = Schedule(graded_modes(grades[:, None], STEPS, medium_every=every))
            schedule = fitter.fit(graded.path)
            quality = _quality(board, finer, schedule, select[:CHOSEN])
            lines.append({"medium_share": share, "computed": graded.path} | quality)
            if len(lines) == 1 or quality["loss_db"] <= min(line["loss_db"] for line in lines):
                chosen[every] = schedule
            if quality["loss_db"] <= MOST_LOSS_DB:
                break
        found[every] = _quality(board, finer, chosen[every], test[:images]) | {
            "candidates_on_select_prompts": lines
        }

    calls = [timer(board, schedule) for schedule in (None, *chosen.values())]
    seconds = np.empty((pairs, len(calls)))
    for pair in track(range(pairs), "time", console=console, transient=True):
        for turn in range(len(calls)):
            index = (turn + pair) % len(calls)
            seconds[pair, index] = calls[index](test[pair % len(test)])
    for index, every in enumerate(chosen, start=1):
        found[every] |= {
            "speedup_x": statistics.median(seconds[:, 0] / seconds[:, index]),
            "plain_median_s": float(np.median(seconds[:, 0])),
            "pairs": pairs,
        }
    return found


def _quality(
    board: Board, finer: Board, schedule: Schedule, cases: Sequence[Case]
) -> dict[str, Any]:
    truth, reference = finer.references(cases), board.references(cases)
    cached = _draw(board, schedule, cases)
    plain, own = psnr_db(reference, truth), psnr_db(cached, truth)
    return {
        "loss_db": float((plain - own).mean()),
        "reference_to_truth_db": float(plain.mean()),
        "graded_to_truth_db": float(own.mean()),
        "graded_to_reference_db": float(psnr_db(cached, reference).mean()),
        "graded_to_reference_ssim": float(ssim(cached, reference).mean()),
        "compute_share": schedule.computes / schedule.modes.size,
        "images": len(cases),
    }


def _draw(board: Board, schedule: Schedule, cases: Sequence[Case]) -> Tensor:
    """Draw cases under a schedule, as many at a time as the board takes: (cases, 3, H, W)."""
    images = [
        board.draw(cases[start : start + board.rows], StaticSchedule(schedule)).images
        for start in range(0, len(cases), board.rows)
    ]
    return torch.cat(images)
