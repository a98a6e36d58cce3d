from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler

from ditcache_rl.bench import Case
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.told import fit_solver
from tests.kit.pipelines import CALL, PROMPTS, STEPS, build_tiny_pipe

CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def euler(steps: int) -> FreeSolver:
    updates = np.array([[-1 / steps, 0.0]] * steps)
    return FreeSolver(np.linspace(1, 0, steps, endpoint=False), np.ones(steps), updates)


@pytest.mark.parametrize("images", [False, True], ids=["latents", "images"])
def test_a_fit_comes_nearer_to_full_compute_the_more_is_free(pipe: Any, images: bool) -> None:
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    start = euler(2)

    def error(solver: FreeSolver) -> float:
        trace = loop.run(solver, decode=images)
        if trace.images is not None:
            return float((trace.images - loop.full.decoded).square().mean())
        return float((trace.latents[-1] - loop.target).square().mean())

    coefficients = fit_solver([loop], start, ["updates"], rounds=3, images=images)
    everything = fit_solver(
        [loop], coefficients, ["times", "keeps", "updates"], rounds=3, images=images
    )

    assert error(everything) < error(coefficients) < error(start)
    np.testing.assert_array_equal(coefficients.times, start.times)
    assert FreeSolver.read(everything.write()).times.tolist() == everything.times.tolist()


def test_a_time_that_is_told_stays_above_zero(pipe: Any) -> None:
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    near = euler(2)._replace(times=np.array([1.0, 1e-3]))

    assert (fit_solver([loop], near, ["times"], rounds=2).times > 0).all()


def test_a_pipeline_of_another_kind_is_refused(pipe: Any) -> None:
    plain = pipe.scheduler
    pipe.scheduler = DDIMScheduler()
    try:
        with pytest.raises(UnsupportedModelError, match="1 and DDIMScheduler"):
            FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    finally:
        pipe.scheduler = plain
