from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks.peers.contender import Setup
from benchmarks.peers.linear import l2p, lacking, learned_solver, paths
from benchmarks.peers.settings import best_options
from benchmarks.peers.solvers import other_solver
from benchmarks.peers.verified import VerifiedForecast
from ditcache_rl.errors import ConfigError
from ditcache_rl.search.calibrate import Products
from ditcache_rl.types import Mode
from tests.kit.pipelines import (
    PROMPTS,
    STEPS,
    assert_close,
    build_tiny_pipe,
    draw,
    draw_under,
)

SIGMAS = np.linspace(1, 0, STEPS + 1)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def products(outputs: Any) -> Products:
    return Products((outputs @ outputs.T)[None], SIGMAS)


def test_a_solver_that_computes_every_step_is_the_sampler_itself(pipe: Any) -> None:
    outputs = np.random.default_rng(0).normal(size=(STEPS, 20))
    solver = l2p(products(outputs), tuple(range(STEPS)))
    alone = np.zeros((STEPS, STEPS))
    alone[:, 0] = np.diff(SIGMAS)
    np.testing.assert_allclose(solver.updates, alone, atol=1e-15)
    # The levels of the pipeline itself, which are shifted.
    draw(pipe, steps=STEPS)
    levels = pipe.scheduler.sigmas.double().numpy()
    alone[:, 0] = np.diff(levels)
    own = solver._replace(times=levels[:-1], updates=alone)
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
    added = [solver.updates[k, : k + 1] @ outputs[list(path[k::-1])] for k in range(len(path))]
    np.testing.assert_allclose(np.sum(added, axis=0), moved, atol=1e-4)
    assert lacking(products(outputs), path, solver) < 1e-8
    assert lacking(products(rng.normal(size=(STEPS, 20))), path, solver) > 1e-3


def test_paths_begin_at_once_and_have_as_many_steps_as_asked_for() -> None:
    for count in (3, 5, 9):
        found = paths(28, count)
        assert all(len(path) == count and path[0] == 0 and path[-1] < 28 for path in found)
        assert len(found) >= 2


@pytest.mark.parametrize("order", [1, 2])
def test_a_forecast_is_trusted_as_far_as_its_check_allows(pipe: Any, order: int) -> None:
    plain = draw(pipe, steps=12)
    computed, apart = [], []
    for threshold in (0.0, 1.0, 1e9):
        drawn, log = draw_under(pipe, VerifiedForecast(threshold, order=order), steps=12)
        computed.append(np.flatnonzero(log.modes[:, 0, 0] == Mode.COMPUTE).tolist())
        apart.append(float((drawn - plain).norm() / plain.norm()))

    assert computed[0] == list(range(12))
    assert len(computed[0]) > len(computed[1]) > len(computed[2])
    assert computed[2] == list(range(order + 1)), "what a forecast is made of"
    assert apart[0] < 1e-5 < apart[1] < apart[2]


def test_a_row_is_checked_by_itself(pipe: Any) -> None:
    rule = VerifiedForecast(1.0, decay=0.9)
    _, both = draw_under(pipe, rule, steps=12, prompts=PROMPTS[:2], seeds=(1, 2))
    for row, prompt in enumerate(PROMPTS[:2]):
        _, alone = draw_under(pipe, rule, steps=12, prompts=prompt, seeds=(1 + row,))
        np.testing.assert_array_equal(both.modes[:, row], alone.modes[:, 0])


def test_options_are_chosen_one_after_the_other_and_what_fails_is_none() -> None:
    def quality(chosen: dict[str, Any]) -> float:
        if chosen.get("a") == 3:
            raise RuntimeError("not this one")
        return float(chosen.get("a", 0) + chosen.get("a", 0) * chosen.get("b", 1))

    assert best_options({"a": (0, 2, 3, 1), "b": (1, 5, 0)}, quality) == {"a": 2, "b": 5}
    assert best_options({"a": (0, -1, 3)}, quality) == {}

    def needs(chosen: dict[str, Any]) -> float:
        if chosen.get("a") != 1:
            raise RuntimeError(f"not {chosen}")
        return 30.0

    assert best_options({"a": (0, 2, 1)}, needs) == {"a": 1}, "the package's own may fail too"
    with pytest.raises(RuntimeError, match=r"not \{\}"):
        best_options({"a": (0, 2)}, needs)


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


# As above.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_another_solver_shifts_by_the_size_of_the_image_as_the_pipelines_own(
    name: str, stretch: float
) -> None:
    mu, steps = 0.9, 5
    own = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = SimpleNamespace(scheduler=own)

    made = other_solver(name, stretch=stretch)(Setup(pipe, 28, lambda: None), steps)
    with made["applied"](pipe):
        pipe.scheduler.set_timesteps(sigmas=[1.0] * steps, mu=mu)
        levels = pipe.scheduler.sigmas.unique().flip(0)

    # Heun's end at 1 / 1000, the others' at 0, and those of the others begin just below 1.
    grid = 1e-3 if "Heun" in name else 0.0
    plain = np.linspace(1, grid, steps if grid else steps + 1)
    shift = np.exp(mu) * stretch
    expected = shift * plain / (1 + (shift - 1) * plain)
    np.testing.assert_allclose(levels[: len(plain)], expected, atol=3e-3)
    assert own.config.shift == 3.0


def test_a_solver_of_other_time_shifts_is_refused() -> None:
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")

    with pytest.raises(ConfigError, match="exponential"):
        other_solver("UniPCMultistepScheduler")(
            Setup(SimpleNamespace(scheduler=own), 28, lambda: None), 5
        )
