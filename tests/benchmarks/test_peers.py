from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.peers.contender import Setup
from benchmarks.peers.linear import LinearSolver, l2p, lacking, learned_solver, paths
from benchmarks.peers.solvers import other_solver
from ditcache_rl.search.calibrate import Products
from tests.kit.pipelines import STEPS, assert_close, build_tiny_pipe, draw

SIGMAS = np.linspace(1, 0, STEPS + 1)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def products(outputs: Any) -> Products:
    return Products((outputs @ outputs.T)[None], SIGMAS)


def test_a_solver_that_computes_every_step_is_the_sampler_itself(pipe: Any) -> None:
    outputs = np.random.default_rng(0).normal(size=(STEPS, 20))
    solver = l2p(products(outputs), tuple(range(STEPS)))
    np.testing.assert_allclose(solver.updates, np.diag(np.diff(SIGMAS)))
    # The levels of the pipeline itself, which are shifted.
    draw(pipe, steps=STEPS)
    own = LinearSolver(solver.path, np.diag(np.diff(pipe.scheduler.sigmas.double().numpy())))
    setup = Setup(pipe, STEPS, lambda: None, solvers={"L2P": {STEPS: own}})

    with learned_solver("L2P")(setup, STEPS)["applied"](pipe):
        drawn = draw(pipe, steps=STEPS)

    assert_close(drawn, draw(pipe, steps=STEPS))


def test_outputs_that_are_sums_of_computed_ones_are_learned_exactly() -> None:
    rng = np.random.default_rng(0)
    outputs, path = rng.normal(size=(STEPS, 20)), (0, 1, 3)
    outputs[2] = outputs[0] - 2 * outputs[1]
    outputs[4:] = rng.normal(size=(2, 3)) @ outputs[list(path)]

    solver = l2p(products(outputs), path)

    moved = np.diff(SIGMAS) @ outputs
    np.testing.assert_allclose(solver.updates.sum(axis=0) @ outputs[list(path)], moved, atol=1e-4)
    assert lacking(products(outputs), solver) < 1e-8
    assert lacking(products(rng.normal(size=(STEPS, 20))), solver) > 1e-3


def test_paths_begin_at_once_and_have_as_many_steps_as_asked_for() -> None:
    for count in (3, 5, 9):
        found = paths(28, count)
        assert all(len(path) == count and path[0] == 0 and path[-1] < 28 for path in found)
        assert len(found) >= 2


# What these solvers do with lists of tensors, under numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("UniPCMultistepScheduler", {}),
    ],
)
def test_other_solvers_come_to_the_image_of_many_steps(
    pipe: Any, name: str, options: dict[str, Any]
) -> None:
    truth = draw(pipe, steps=60)
    setup = Setup(pipe, 60, lambda: None)
    errors = []
    for steps in (6, 20):
        made = other_solver(name, **options)(setup, steps)
        with made["applied"](pipe):
            assert type(pipe.scheduler).__bases__[0].__name__ == name
            errors.append(float((draw(pipe, steps=steps) - truth).norm() / truth.norm()))

    assert errors[1] < errors[0] < 0.5
    assert errors[1] < 0.05
    torch.testing.assert_close(draw(pipe, steps=60), truth, rtol=0, atol=0)
