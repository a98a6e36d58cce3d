from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Case
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import Collapsed, collapse, euler_steps
from ditcache_rl.schedules.maps import guidance_of
from ditcache_rl.search.free_loop import FreeLoop
from ditcache_rl.search.maps import _matrix, _solved, fit_maps, steps_for
from tests.kit.pipelines import CALL, GUIDANCE, PROMPTS, STEPS, build_tiny_pipe

CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]
PATH = (0, 2, 4)


@pytest.fixture(scope="module")
def loops() -> list[FreeLoop]:
    """Two branches, each of a call of its own."""
    pipe = build_tiny_pipe()
    return FreeLoop.of(pipe, CASES, steps=STEPS, call=CALL | GUIDANCE, rows=1)


def collapsed(loops: list[FreeLoop], path: tuple[int, ...]) -> Collapsed:
    sigmas = loops[0].sigmas
    return collapse(Schedule.on_path(path, STEPS), sigmas, euler_steps(sigmas))


def error(loops: list[FreeLoop], solver: Collapsed) -> float:
    ends = [loop.run(solver).latents[-1] - loop.target for loop in loops]
    return float(torch.cat(ends).square().mean())


def guidance(loops: list[FreeLoop]) -> Any:
    return guidance_of(loops[0].full.outputs[0], loops[0].full.branches[0])


def test_matrices_come_nearer_to_full_compute_the_more_they_tell_apart(
    loops: list[FreeLoop],
) -> None:
    own = collapsed(loops, PATH)

    guided = fit_maps(loops, own, guidance=None)
    branched = fit_maps(loops, own, guidance=guidance(loops))

    assert error(loops, branched) < error(loops, guided) < error(loops, own)
    assert guided.path == own.path
    assert not guided.by_branch
    assert branched.by_branch


def test_with_every_step_computed_nothing_is_left_to_fit(loops: list[FreeLoop]) -> None:
    everything = fit_maps(loops, collapsed(loops, tuple(range(STEPS))), guidance=guidance(loops))

    assert error(loops, everything) < 1e-10  # float32 through as many steps


def test_a_hard_case_does_not_settle_a_matrix_alone() -> None:
    rng = np.random.default_rng(0)
    true, other = rng.normal(size=(2, 6, 3))
    rows = rng.normal(size=(4, 50, 6))
    wanted = rows @ true + 0.01 * rng.normal(size=(4, 50, 3))
    wanted[0] = 3 * rows[0] @ other  # nothing like the others
    grams, moments = rows.mT @ rows, rows.mT @ wanted

    found = _matrix(grams, moments, (wanted**2).sum(axis=(1, 2)))
    alike = _solved(grams.sum(axis=0), moments.sum(axis=0))

    for case in (1, 2, 3):
        left, before = (((wanted[case] - rows[case] @ one) ** 2).sum() for one in (found, alike))
        assert left < before / 10


def test_guidance_is_what_the_pipeline_was_called_with(loops: list[FreeLoop]) -> None:
    scale = GUIDANCE["true_cfg_scale"]

    found = guidance(loops)

    # The pipeline calls for the prompt first.
    np.testing.assert_allclose(found, [scale, 1 - scale], atol=1e-3)


def lacking(loops: list[FreeLoop], path: tuple[int, ...]) -> float:
    """Fit every gap of full compute to the last two outputs, and return what is lacking."""
    total = 0.0
    for place, (start, end) in enumerate(zip(path, [*path[1:], STEPS], strict=True)):
        columns = [
            torch.cat([loop.full.outputs[step].double().flatten() for loop in loops])
            for step in path[max(0, place - 1) : place + 1]
        ]
        moved = [loop.full.latents[end] - loop.full.latents[start] for loop in loops]
        wanted = torch.cat([one.double().flatten() for one in moved])
        known = torch.stack(columns, dim=1)
        found = torch.linalg.lstsq(known, wanted[:, None]).solution
        total += float((wanted[:, None] - known @ found).square().sum())
    return total


@pytest.mark.parametrize("count", [2, 3, 4])
def test_steps_are_those_whose_gaps_lack_least(loops: list[FreeLoop], count: int) -> None:
    paths = [(0, *rest) for rest in combinations(range(1, STEPS), count - 1)]

    found = steps_for(loops, count)

    assert len(found) == count
    least = min(lacking(loops, path) for path in paths)
    assert lacking(loops, found) == pytest.approx(least, rel=1e-3)
