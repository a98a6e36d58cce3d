from typing import Any, cast

import numpy as np
import pytest
from diffusers import DDIMScheduler

from ditcache_rl.bench import Case
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.interval import Interval
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import collapse, euler_steps
from ditcache_rl.search.free import FreeLoop, FreeSolver
from ditcache_rl.search.told import FittedUpdates, ToldTimes, fit_solver, told_times
from ditcache_rl.types import Progress
from tests.kit.environment import levels_of
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
            return float((trace.images - loop.images).square().mean())
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


def test_coefficients_alone_are_judged_beside_told_times(pipe: Any) -> None:
    sigmas = levels_of(pipe, CALL, STEPS)
    own = collapse(Schedule.on_path((0, 1), STEPS), sigmas, euler_steps(sigmas))
    heard = list[float]()

    class Heard(Progress):
        def expect(self, total: float) -> None:
            heard.append(total)

        def reach(self, count: float) -> None:
            heard.append(count)

    found = told_times(pipe, own, CASES, CASES, call=CALL, rows=1, progress=Heard())

    coefficients, both = found.fitted
    assert heard[0] == heard[-1]
    assert (coefficients.free, both.free) == ("coefficients", "coefficients and told times")
    for one in found.fitted:
        assert one.gain.n == 2
        assert one.gain.mean == pytest.approx(one.found_db - found.own_db)
        assert one.collapsed.path == own.path
    assert 0 < coefficients.gain.mean < both.gain.mean  # these are what they were fitted to
    assert coefficients.collapsed.told is None, "they stay on the grid"
    assert coefficients.collapsed.times.tolist() == own.times.tolist()
    assert both.collapsed.times.tolist() != own.times.tolist()


def test_the_best_of_what_gains_for_sure_is_taken() -> None:
    def one(free: str, found_db: float, low: float) -> FittedUpdates:
        gain = Interval(found_db - 30, low, 2 * (found_db - 30) - low, 2)
        return FittedUpdates(free, cast(Any, None), found_db, gain)

    sure, unsure, better = one("sure", 31, 0.5), one("unsure", 33, -0.1), one("better", 32, 0.1)

    assert ToldTimes(30, (sure, unsure)).best is sure
    assert ToldTimes(30, (sure, better)).best is better
    assert ToldTimes(30, (unsure,)).best is None


def test_a_pipeline_at_other_noise_levels_or_of_another_kind_is_refused(pipe: Any) -> None:
    sigmas = np.linspace(1, 0, STEPS + 1) ** 3
    own = collapse(Schedule.on_path((0, 1), STEPS), sigmas, euler_steps(sigmas))

    with pytest.raises(ConfigError, match="the noise levels of the schedule"):
        told_times(pipe, own, CASES, CASES, call=CALL, rows=2)
    plain = pipe.scheduler
    pipe.scheduler = DDIMScheduler()
    try:
        with pytest.raises(UnsupportedModelError, match="1 and DDIMScheduler"):
            told_times(pipe, own, CASES, CASES, call=CALL, rows=2)
    finally:
        pipe.scheduler = plain
