"""What a request's images probably reach is told where the policy knows its schedule."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Expectation
from ditcache_rl.shapes import CALL, load_pipeline
from tests.kit.environment import PROMPTS, untrained_policy


def expecting(pipe: Any, call: dict[str, Any], constant_db: float) -> Policy:
    """A policy that expects so much at half compute, less 2 dB per e-fold of the error there."""
    policy = untrained_policy(pipe, call)
    table = policy.tables[4]
    slopes = tuple((-2.0 if step == 2 else 0.0, 0.0, 0.0) for step in range(4))
    line = Expectation(constant_db, 1.0, slopes)
    known = table.with_lines({2: table[2]._replace(expectation=line)})
    return replace(policy, tables={**policy.tables, 4: known})


def draw(pipe: Any, call: dict[str, Any], *, prompts: int = 1, steps: int = 4) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(prompts)]
    texts = list(PROMPTS["train"][:prompts])
    pipe(texts, num_inference_steps=steps, generator=generators, output_type="latent", **call)


def test_a_request_says_what_its_images_probably_reach(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    policy = expecting(tiny_pipe, tiny_call, 30.0)
    with dc.cached(tiny_pipe, policy, budget=0.5) as run:
        draw(tiny_pipe, tiny_call, prompts=3)

    (log,) = run.logs
    assert log.modes[:, 0, 0].tolist().count(0) == 2
    assert log.expected_psnr_db is not None
    jumps = log.jumps()[:, 2, 0]
    np.testing.assert_allclose(log.expected_psnr_db, np.clip(30 - 2 * jumps, 0, 60))
    assert f"{log.expected_psnr_db.min():.1f} in the worst of 3 images" in run.summary()


@pytest.mark.parametrize(("constant_db", "told"), [(1e5, 60.0), (-1e5, 0.0)])
def test_no_more_is_expected_than_psnr_can_be(
    tiny_pipe: Any, tiny_call: dict[str, Any], constant_db: float, told: float
) -> None:
    with dc.cached(tiny_pipe, expecting(tiny_pipe, tiny_call, constant_db), budget=0.5) as run:
        draw(tiny_pipe, tiny_call)

    assert run.logs[0].expected_psnr_db == pytest.approx([told])


@pytest.mark.parametrize(("budget", "steps"), [(0.75, 4), (1.0, 4), (0.5, 6), (0.5, 5)])
def test_nothing_is_told_of_other_schedules(
    tiny_pipe: Any, tiny_call: dict[str, Any], budget: float, steps: int
) -> None:
    with dc.cached(tiny_pipe, expecting(tiny_pipe, tiny_call, 30.0), budget=budget) as run:
        draw(tiny_pipe, tiny_call, steps=steps)

    assert run.logs[0].expected_psnr_db is None
    assert "expected" not in run.summary()


def test_the_shipped_policy_tells_it_under_every_budget_it_names() -> None:
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    told = []
    for computes in range(2, 10):
        with dc.cached(pipe, "shapes-ppo", budget=computes / 28) as run:
            draw(pipe, CALL, steps=28)
        assert run.logs[0].modes[:, 0, 0].tolist().count(0) == computes
        expected = run.logs[0].expected_psnr_db
        assert expected is not None
        told.append(float(expected[0]))

    # Schedules of 2 and of 9 steps are 25 dB apart in the mean; single images lie 5 dB around it.
    assert told[-1] - told[0] > 10
    assert all(10 < psnr_db <= 60 for psnr_db in told)
