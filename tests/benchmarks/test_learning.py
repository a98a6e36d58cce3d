import numpy as np
import pytest

from benchmarks.harness.play import Played
from benchmarks.learned.gains import CLOSED_FORM, p5_gain
from ditcache_rl.bench import budgets_of
from ditcache_rl.config import load_env
from ditcache_rl.policy import load_schedules
from ditcache_rl.types import Floats, Mode


def played(psnr_db: Floats) -> Played:
    return Played(psnr_db, np.zeros_like(psnr_db))


def test_the_opponents_with_closed_forms_can_be_played_at_every_named_budget() -> None:
    file, config = load_schedules(CLOSED_FORM), load_env("shapes")

    steps = config.steps[0]
    assert file.steps == [steps]
    computed = {int((schedule.table == Mode.COMPUTE).sum()) for schedule in file.schedules}
    assert computed == set(budgets_of(config, steps))


def test_the_gain_of_the_tail_is_paired_by_prompt() -> None:
    rng = np.random.default_rng(0)
    psnr = rng.normal(45, 5, 64)

    gain = p5_gain(played(psnr + 2), played(psnr), rng)

    assert gain == pytest.approx({"value": 2, "low": 2, "high": 2})
