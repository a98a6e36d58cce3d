"""Do cheap measures of sensitivity tell what really hurts, and what do their grades buy?

Rank correlation is over sites and steps, against injection on the same images: one site reuses its
residual at one step, and the final image is measured. Grades from 10 prompts are compared with
grades from 40. The graded schedule caches what the transformer returns: steps that are graded high,
by the sum over their sites, compute; the others are refreshed at intervals, and forecast in between
with weights that are fitted on train prompts. How many are graded high is chosen on select prompts,
interval by interval. On test prompts the schedule is timed beside the plain pipeline, and its loss
is in the article's sense: PSNR of the cached image and of the plain one against a common ground
truth, the same prompt and seed at four times the steps. Last, a sweep of style mixing on a GAN with
random weights is timed with and without reuse of its layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.extras.gan import LatentWalk, StyleGenerator, StyleReuse
from ditcache_rl.inference import cached
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.metrics import psnr_db, ssim
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.schedules.forecast import nodes_of, row_of
from ditcache_rl.search import Rollouts, Space
from ditcache_rl.sensitivity import (
    attention_sensitivity,
    grade_sites,
    graded_modes,
    gradient_sensitivity,
    injection_sensitivity,
    rank_correlation,
    typical,
)
from ditcache_rl.types import Floats, Mode

if TYPE_CHECKING:
    from benchmarks._report import Run, console, parser
else:
    from _report import Run, console, parser

Measured = TypeVar("Measured")

STEPS = 28
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


class Amounts(NamedTuple):
    """How much is measured."""

    prompts: int
    """For the analysis; grades are compared with those of the largest of `SIZES`."""
    injection: int
    test: int
    pairs: int


FULL, QUICK = Amounts(10, 2, 24, 20), Amounts(10, 1, 16, 10)
#: Images per prompt, and random images for each, as `ditcache-rl analyze` takes them.
IMAGES, PROBES = 4, 2
#: Random images where a single image is compared with injection.
SURE = 8
#: Edits per layer from which a sweep of style mixing changes the styles.
EDITS = 8
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
    cases = cases_of(config, "train", images=IMAGES)
    few = cases[: amounts.prompts * IMAGES]
    firsts = cases[::IMAGES]
    gradient, gradient_s = _clocked(
        "gradient", partial(gradient_sensitivity, board, few, probes=PROBES)
    )
    attention, attention_s = _clocked(
        "attention", partial(attention_sensitivity, board, firsts[: amounts.prompts])
    )
    same = firsts[: amounts.injection]
    injection, injection_s = _clocked("injection", partial(injection_sensitivity, board, same))
    sure, _ = _clocked("same", partial(gradient_sensitivity, board, same, probes=SURE, seed=2))
    truth = typical(injection)
    others = cases[len(few) : max(SIZES) * IMAGES]
    rest, _ = _clocked(
        "others", partial(gradient_sensitivity, board, others, probes=PROBES, seed=1)
    )
    every = np.concatenate([gradient, rest])
    by_size = {size: _site_means(every[: size * IMAGES]) for size in SIZES}
    agreement = {size: _agreement(by_size[size], by_size[max(SIZES)]) for size in SIZES}
    tens = [_site_means(part) for part in np.split(every, max(SIZES) // 10)]
    whole = Board(pipe, STEPS, sites=1, call=source.call, rows=32, blocks=DENOISER)
    graded = graded_policies(whole, config, typical(gradient.sum(axis=2)), amounts)
    mixing = style_mixing(amounts.pairs)
    figures = {
        "spearman_gradient": rank_correlation(typical(sure), truth),
        "spearman_attention": rank_correlation(typical(attention.drift[: len(same)]), truth),
        "grade_agreement_share": agreement[10],
        "grade_agreement_of_tens_share": float(
            np.mean([_agreement(ten, by_size[max(SIZES)]) for ten in tens])
        ),
        "analysis_s": gradient_s + attention_s,
        "graded_speedup_x": graded[EVERY[0]]["speedup_x"],
        "graded_loss_db": graded[EVERY[0]]["loss_db"],
        **{f"graded_every_{n}_speedup_x": graded[n]["speedup_x"] for n in EVERY[1:]},
        **{f"graded_every_{n}_loss_db": graded[n]["loss_db"] for n in EVERY[1:]},
        "style_mixing_x": mixing["speedup_x"],
    }
    details = {
        "steps": STEPS,
        "sites": board.sites,
        "prompts": amounts.prompts,
        "images_per_prompt": IMAGES,
        "injection_prompts": amounts.injection,
        "seconds": {"gradient": gradient_s, "attention": attention_s, "injection": injection_s},
        "spearman_entropy": rank_correlation(typical(attention.entropy[: len(same)]), truth),
        "spearman_gradient_of_all_images": rank_correlation(typical(gradient), truth),
        "spearman_gradient_of_site_means": rank_correlation(
            _site_means(sure), np.nanmean(truth, axis=0)
        ),
        "spearman_injection_between_halves": _between_halves(injection),
        "agreement_with_40_prompts": {str(size): share for size, share in agreement.items()},
        "site_sensitivity_by_image": np.nanmean(every, axis=1).tolist(),
        "site_injection_by_image": np.nanmean(injection, axis=1).tolist(),
        "graded": {str(every): row for every, row in graded.items()},
        "style_mixing": mixing,
    }
    run.finish(figures, details, options.json, title=f"sensitivity at {STEPS} steps")


def _clocked(name: str, measure: Callable[[], Measured]) -> tuple[Measured, float]:
    started = time.perf_counter()
    with console.status(name):
        found = measure()
    seconds = time.perf_counter() - started
    console.print(f"{name}: {seconds:.1f} s")
    return found, seconds


def _site_means(images: Floats) -> Floats:
    return np.asarray(np.nanmean(typical(images), axis=0))


def _agreement(few: Floats, many: Floats) -> float:
    return float((grade_sites(few) == grade_sites(many)).mean())


def _between_halves(injection: Floats) -> float | None:
    """Tell how well the ground truth of half of the prompts predicts that of the other half."""
    half = len(injection) // 2
    if not half:
        return None
    return rank_correlation(typical(injection[:half]), typical(injection[half:]))


def graded_policies(
    board: Board, config: EnvConfig, sensitivity: Floats, amounts: Amounts
) -> dict[int, dict[str, Any]]:
    """Choose graded schedules, and tell on test prompts what they gain and lose.

    Args:
        board: Pipeline, steps and one site.
        config: For the prompts.
        sensitivity: (steps,); nan at the first, which is then high.
        amounts: How many test prompts, and how often they are timed.
    """
    train, select, test = (cases_of(config, part) for part in ("train", "select", "test"))
    finer = Board(
        board.pipe, FINER * STEPS, sites=1, call=board.call, rows=board.rows, blocks=DENOISER
    )
    rollouts = Rollouts(board, train[:FITTED], finer=finer)
    found: dict[int, dict[str, Any]] = {}
    chosen: dict[int, StaticSchedule] = {}
    for every in EVERY:
        rows: list[dict[str, Any]] = []
        for share in track(SHARES, f"refresh {every}", console=console, transient=True):
            grades = grade_sites(sensitivity, low=0, high=share)
            modes = graded_modes(grades[:, None], STEPS, medium_every=every)
            nodes = nodes_of(modes[:, 0].astype(np.int64))
            filled = Space(STEPS, 1).modes(row_of(nodes, STEPS))
            schedule = StaticSchedule.of(filled, rollouts.weights(nodes))
            quality = _quality(board, finer, schedule, select[:CHOSEN])
            rows.append({"medium_share": share, "computed": nodes} | quality)
            if len(rows) == 1 or quality["loss_db"] <= min(row["loss_db"] for row in rows):
                chosen[every] = schedule
            if quality["loss_db"] <= MOST_LOSS_DB:
                break
        found[every] = _quality(board, finer, chosen[every], test[: amounts.test]) | {
            "candidates_on_select_prompts": rows
        }
    options: list[StaticSchedule | None] = [None, *chosen.values()]
    pairs = amounts.pairs
    seconds = np.empty((pairs, len(options)))
    for pair in track(range(pairs), "time", console=console, transient=True):
        for turn in range(len(options)):
            index = (turn + pair) % len(options)
            seconds[pair, index] = _timed(board, options[index], [test[pair % len(test)]])
    for index, every in enumerate(chosen, start=1):
        found[every] |= {
            "speedup_x": statistics.median(seconds[:, 0] / seconds[:, index]),
            "plain_median_s": float(np.median(seconds[:, 0])),
            "pairs": pairs,
        }
    return found


def style_mixing(pairs: int) -> dict[str, Any]:
    """Time a sweep that mixes other styles in from each layer on, as many edits for each."""
    generator = StyleGenerator().eval()
    layers = len(generator.synthesis.blocks)
    crossovers = np.repeat(np.arange(layers), EDITS)
    latents = torch.randn(len(crossovers) + 1, 64, generator=torch.Generator().manual_seed(0))
    base, *others = generator.styles(latents)
    styles = torch.stack([base] * len(crossovers))
    for edit, (layer, other) in enumerate(zip(crossovers, others, strict=True)):
        styles[edit, layer:] = other[layer:]
    walk, styles = LatentWalk(generator.synthesis), styles[:, None]
    plain = walk(styles)
    seconds = np.empty((pairs, 2))
    for pair in range(pairs):
        for reuse in (False, True) if pair % 2 else (True, False):
            with cached(walk, StyleReuse(), sites=layers) if reuse else nullcontext():
                started = time.perf_counter()
                images = walk(styles)
                seconds[pair, int(reuse)] = time.perf_counter() - started
            assert torch.equal(images, plain)
    return {
        "speedup_x": statistics.median(seconds[:, 0] / seconds[:, 1]),
        "plain_median_s": float(np.median(seconds[:, 0])),
        "edits": len(crossovers),
        "layers": layers,
        "identical": True,
        "pairs": pairs,
    }


def _quality(
    board: Board, finer: Board, schedule: StaticSchedule, cases: Sequence[Case]
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
        "compute_share": float((schedule.modes == Mode.COMPUTE).mean()),
        "images": len(cases),
    }


def _draw(board: Board, schedule: StaticSchedule, cases: Sequence[Case]) -> Tensor:
    images = []
    for start in range(0, len(cases), board.rows):
        part = cases[start : start + board.rows]
        images.append(board.draw_under(schedule, part)[0])
    return torch.cat(images)


def _timed(board: Board, schedule: StaticSchedule | None, case: Sequence[Case]) -> float:
    """Return the seconds of one call; attaching is outside of the clock."""
    if schedule is None:
        started = time.perf_counter()
        board.draw(case)
        return time.perf_counter() - started
    with BlockRunner(board.pipe, schedule, TieredCache(), sites=board.sites, blocks=board.blocks):
        started = time.perf_counter()
        board.draw(case)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
