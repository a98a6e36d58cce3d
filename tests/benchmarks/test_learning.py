import numpy as np
import pytest

from benchmarks.harness.play import Played
from benchmarks.learned.gains import CLOSED_FORM, p5_gain
from ditcache_rl.bench import named_computes
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy
from ditcache_rl.types import Floats


def played(psnr_db: Floats) -> Played:
    return Played(psnr_db, np.zeros_like(psnr_db))


def test_the_opponents_with_closed_forms_can_be_played_at_every_named_budget() -> None:
    policy, config = open_policy(CLOSED_FORM), load_env("shapes")

    steps = config.steps[0]
    assert policy.steps == [steps]
    assert list(policy.tables[steps]) == named_computes(config, steps)


def test_the_gain_of_the_tail_is_paired_by_prompt() -> None:
    rng = np.random.default_rng(0)
    psnr = rng.normal(45, 5, 64)

    gain = p5_gain(played(psnr + 2), played(psnr), rng)

    assert gain == pytest.approx({"value": 2, "low": 2, "high": 2})
