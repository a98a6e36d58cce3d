from typing import Any, cast

import numpy as np
import pytest

from ditcache_rl.bench import Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.interval import Interval
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import Collapsed, collapse, euler_steps
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.refit import FittedUpdates, Refit, refit
from ditcache_rl.types import Progress
from tests.kit.pipelines import CALL, GUIDANCE, PROMPTS, STEPS, build_tiny_pipe

CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]
MATRICES = ["matrices", "matrices, for steps of their own"]
BY_BRANCH = ["matrices by branch", "matrices by branch, for steps of their own"]
DESCENDED = ["coefficients", "coefficients and told times", "both, to images"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def own(loop: FreeLoop, path: tuple[int, ...]) -> Collapsed:
    return collapse(Schedule.on_path(path, STEPS), loop.sigmas, euler_steps(loop.sigmas))


@pytest.mark.parametrize(
    ("guidance", "path", "ways"),
    [
        ({}, (0, 1), [*DESCENDED, *MATRICES]),
        (GUIDANCE, (0, 1, 2, 3, 4), [*MATRICES, *BY_BRANCH]),
    ],
    ids=["few steps", "more steps of two branches"],
)
def test_every_way_that_makes_sense_is_tried_and_judged(
    pipe: Any, guidance: dict[str, Any], path: tuple[int, ...], ways: list[str]
) -> None:
    loops = FreeLoop.of(pipe, CASES, steps=STEPS, call=CALL | guidance, rows=2)
    heard = list[float]()

    class Bar(Progress):
        def expect(self, total: float) -> None:
            heard.append(-total)

        def advance(self, count: float = 1.0) -> None:
            heard.append(count)

    found = refit(own(loops[0], path), loops, loops, progress=Bar())

    assert [one.way for one in found.fitted] == ways
    assert sum(heard) == 0
    for one in found.fitted:
        assert one.gain.n == len(CASES)
        assert one.gain.mean == pytest.approx(one.found_db - found.own_db)
        assert len(one.collapsed.path) == len(path)
        assert (one.collapsed.maps is not None) == one.way.startswith("matrices")
        assert one.collapsed.by_branch == ("by branch" in one.way)
    assert found.fitted[0].gain.mean > 0, "it is what was fitted to"


def test_told_times_leave_the_grid_and_coefficients_alone_stay(pipe: Any) -> None:
    loops = FreeLoop.of(pipe, CASES, steps=STEPS, call=CALL, rows=1)
    before = own(loops[0], (0, 1))

    coefficients, both, *_ = refit(before, loops, loops).fitted

    assert coefficients.collapsed.told is None
    assert coefficients.collapsed.times.tolist() == before.times.tolist()
    assert both.collapsed.times.tolist() != before.times.tolist()


def test_the_best_of_what_gains_for_sure_is_taken() -> None:
    def one(way: str, found_db: float, low: float) -> FittedUpdates:
        gain = Interval(found_db - 30, low, 2 * (found_db - 30) - low, 2)
        return FittedUpdates(way, cast(Any, None), found_db, gain)

    sure, unsure, better = one("sure", 31, 0.5), one("unsure", 33, -0.1), one("better", 32, 0.1)

    assert Refit(30, (sure, unsure)).best is sure
    assert Refit(30, (sure, better)).best is better
    assert Refit(30, (unsure,)).best is None


def test_a_pipeline_at_other_noise_levels_is_refused(pipe: Any) -> None:
    sigmas = np.linspace(1, 0, STEPS + 1) ** 3
    other = collapse(Schedule.on_path((0, 1), STEPS), sigmas, euler_steps(sigmas))
    loops = FreeLoop.of(pipe, CASES, steps=STEPS, call=CALL, rows=2)

    with pytest.raises(ConfigError, match="the noise levels of the schedule"):
        refit(other, loops, loops)
