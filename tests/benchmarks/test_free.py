from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.free_times import Fits, SolverFits
from benchmarks.harness import KeptParts
from benchmarks.learned.residual import ResidualSolvers
from ditcache_rl.bench import Case
from ditcache_rl.config import find_policy
from ditcache_rl.policy import load_policy
from ditcache_rl.search.free import FreeSolver
from ditcache_rl.search.free_loop import FreeLoop
from tests.kit.pipelines import CALL, PROMPTS, STEPS, build_tiny_pipe

CASES = [Case(PROMPTS[0], 1), Case(PROMPTS[1], 2)]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


def test_what_is_fitted_is_chosen_kept_and_gone_on_with(pipe: Any, tmp_path: Path) -> None:
    fits = Fits(train=2, select=2, test=2, rounds=1, starts=1)
    kept = KeptParts(tmp_path, fits, resume=False)
    table = load_policy(find_policy("shapes-ppo")).tables[28]
    work = SolverFits(pipe, table, fits, kept)

    chosen = work.choose(2)

    assert set(chosen) == {"searched", "grid", "times", "all", "images", "ppo"}
    ppo, both, alone = (
        kept.done[f"2 {chosen['grid'][0]}, {way}"]["outputs"] for way in ("ppo", "times", "grid")
    )
    assert ppo >= both > alone > 0
    grid, times = chosen["grid"][1], chosen["times"][1]
    assert grid.times.tolist() == chosen["searched"][1].times.tolist()
    assert times.times.tolist() != grid.times.tolist()
    assert work.psnr("train", times).mean() > work.psnr("train", grid).mean()
    again = KeptParts(tmp_path, fits, resume=True)
    assert all(part in again for part in kept.done)
    assert again.done == kept.done


def test_an_action_of_nothing_is_the_base_and_gains_nothing(pipe: Any) -> None:
    loop = FreeLoop(pipe, CASES, steps=STEPS, call=CALL)
    euler = FreeSolver(np.array([1.0, 0.5]), np.ones(2), np.array([[-0.5, 0.0]] * 2))
    env = ResidualSolvers([loop], euler, ("times", "updates"))
    env.reset(seed=0)

    _, none, done, _, _ = env.step(np.zeros(5, np.float32))
    _, some, _, _, _ = env.step(np.full(5, 3.0, np.float32))

    assert env.action_space.shape == (5,)
    assert none == pytest.approx(0.0, abs=1e-4)
    assert done
    assert abs(some) > 0.1
