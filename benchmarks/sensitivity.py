"""Do cheap measures of sensitivity tell what really hurts, and what do their grades buy?

Rank correlation is over sites and steps, against injection on the same images: one site reuses its
residual at one step, and the final image is measured. Grades from 10 prompts are compared with
grades from 40. The graded schedule caches what the transformer returns: steps that are graded high,
by the sum over their sites, compute; the others are refreshed at intervals, and forecast in between
with coefficients that are fitted on train prompts. How many are graded high is chosen on select
prompts, interval by interval. On test prompts the schedule is timed beside the plain pipeline, and
its loss is in the article's sense: PSNR of the cached image and of the plain one against a common
ground truth, the same prompt and seed at four times the steps. Last, a sweep of style mixing on a
GAN with random weights is timed with and without reuse of its layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.harness import Benchmark, console, parser
from benchmarks.precision.drawn import STEPS
from benchmarks.precision.graded import DENOISER, EVERY, graded_policies
from benchmarks.precision.mixing import style_mixing
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import load_env
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.sensitivity import (
    attention_sensitivity,
    grade_sites,
    gradient_sensitivity,
    injection_sensitivity,
    rank_correlation,
    typical,
)
from ditcache_rl.types import Floats

Measured = TypeVar("Measured")


class AnalysisAmounts(NamedTuple):
    """How much is measured."""

    prompts: int
    """For the analysis; grades are compared with those of the largest of `SIZES`."""
    injection: int
    test: int
    pairs: int


FULL, QUICK = AnalysisAmounts(10, 2, 24, 20), AnalysisAmounts(10, 1, 16, 10)
#: Images per prompt, and random images for each, as `ditcache-rl analyze` takes them.
IMAGES, PROBES = 4, 2
#: Random images where a single image is compared with injection.
SURE = 8
#: Prompts whose grades are laid beside each other.
SIZES = (5, 10, 20, 40)


def main() -> None:
    """Measure all, and report."""
    less = f"{QUICK.injection} prompt for injection instead of {FULL.injection}, fewer images"
    options = parser(__doc__, quick=less).parse_args()
    run = Benchmark()
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
    by_step = typical(gradient.sum(axis=2))
    graded = graded_policies(whole, config, by_step, images=amounts.test, pairs=amounts.pairs)
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
        "graded": {str(every): entry for every, entry in graded.items()},
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


if __name__ == "__main__":
    main()
