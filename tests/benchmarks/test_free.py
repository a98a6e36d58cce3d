from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.free_times import Fits, SolverFits
from benchmarks.learned.residual import ResidualSolvers
from benchmarks.peers.fitting import fit
from benchmarks.peers.free import FreeLoop, FreeSolver
from ditcache_rl.bench import Case
from tests.kit.pipelines import CALL, GUIDANCE, PROMPTS, STEPS, assert_close, build_tiny_pipe, draw

CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def euler(sigmas: Any, history: int = 2) -> FreeSolver:
    updates = np.zeros((len(sigmas) - 1, history))
    updates[:, 0] = np.diff(sigmas)
    return FreeSolver(np.asarray(sigmas[:-1]), np.ones(len(updates)), updates)


def test_a_solver_of_the_sampler_s_own_numbers_is_the_sampler(pipe: Any) -> None:
    plain = draw(pipe, steps=STEPS)
    solver = euler(pipe.scheduler.sigmas.double().numpy())

    with solver.applied(pipe):
        drawn = draw(pipe, steps=STEPS)

    assert_close(drawn, plain)
    assert_close(draw(pipe, steps=STEPS), plain)


@pytest.mark.parametrize("guidance", [{}, GUIDANCE], ids=["one branch", "two branches"])
def test_a_run_from_within_is_the_whole_run(pipe: Any, guidance: dict[str, Any]) -> None:
    call = CALL | guidance
    if guidance:
        call = call | {"negative_prompt": [guidance["negative_prompt"]] * len(CASES)}
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=call)
    solver = euler(np.linspace(1, 0, 4))
    known, other = loop.run(solver), solver._replace(updates=solver.updates + 0.01)
    other.updates[0] = solver.updates[0]
    loop.computes = 0

    for first, tried in ((0, other), (2, other), (3, solver), (0, solver)):
        whole, part = loop.run(tried, decode=True), loop.run(tried, known=known, first=first)
        assert_close(part.latents[-1], whole.latents[-1])
    assert loop.computes == 4 * 3 + 3 + 1 + 0 + 3
    assert whole.images is not None
    with solver.applied(pipe):
        images = pipe(
            [case.prompt for case in CASES],
            generator=[torch.Generator().manual_seed(case.seed) for case in CASES],
            num_inference_steps=STEPS,
            output_type="pt",
            **call,
        ).images
    assert_close(images, whole.images)


@pytest.mark.parametrize("images", [False, True], ids=["latents", "images"])
def test_a_fit_comes_nearer_to_full_compute_the_more_is_free(pipe: Any, images: bool) -> None:
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    start = euler(np.linspace(1, 0, 3))

    def error(solver: FreeSolver) -> float:
        trace = loop.run(solver, decode=images)
        if trace.images is not None:
            return float((trace.images - loop.images).square().mean())
        return float((trace.latents[-1] - loop.target).square().mean())

    coefficients = fit([loop], start, ["updates"], rounds=3, images=images)
    everything = fit([loop], coefficients, ["times", "keeps", "updates"], rounds=3, images=images)

    assert error(everything) < error(coefficients) < error(start)
    np.testing.assert_array_equal(coefficients.times, start.times)
    assert FreeSolver.read(everything.write()).times.tolist() == everything.times.tolist()


def test_what_is_fitted_is_chosen_kept_and_gone_on_with(pipe: Any, tmp_path: Path) -> None:
    fits, file = Fits(train=2, select=2, test=2, rounds=1, starts=1), tmp_path / "kept.json"
    work = SolverFits(pipe, fits, file=file, resume=False)

    chosen = work.choose(2)

    assert set(chosen) == {"searched", "grid", "times", "all", "images", "ppo"}
    (ways,) = work.known.values()
    assert ways["ppo"]["outputs"] >= ways["times"]["outputs"] > ways["grid"]["outputs"] > 0
    grid, times = chosen["grid"][1], chosen["times"][1]
    assert grid.times.tolist() == chosen["searched"][1].times.tolist()
    assert times.times.tolist() != grid.times.tolist()
    assert work.psnr("train", times).mean() > work.psnr("train", grid).mean()
    again = SolverFits(pipe, fits, file=file, resume=True)
    assert again.known == work.known
    assert SolverFits(pipe, fits._replace(rounds=2), file=file, resume=True).known == {}


def test_an_action_of_nothing_is_the_base_and_gains_nothing(pipe: Any) -> None:
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    env = ResidualSolvers([loop], euler(np.linspace(1, 0, 3)), ("times", "updates"))
    env.reset(seed=0)

    _, none, done, _, _ = env.step(np.zeros(5, np.float32))
    _, some, _, _, _ = env.step(np.full(5, 3.0, np.float32))

    assert env.action_space.shape == (5,)
    assert none == pytest.approx(0.0, abs=1e-4)
    assert done
    assert abs(some) > 0.1
