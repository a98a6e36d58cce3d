from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Case
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
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
            **call | {name: [text] * 2 for name, text in call.items() if name == "negative_prompt"},
        ).images
    assert_close(images, whole.images)
