from typing import Any

import numpy as np
import pytest

from ditcache_rl.inference import measure_profile, profile
from ditcache_rl.inference.profile import probe_schedules
from ditcache_rl.metrics import fit_cost
from ditcache_rl.types import Mode, Modes
from tests.environment import PROMPTS


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("steps", [4, 28, 50])
def test_probes_tell_every_cost_apart(steps: int, sites: int) -> None:
    schedules = probe_schedules(steps, sites)
    prices = {"fixed": 0.05, "step": 0.002, "site": 0.01 / sites, "forecast": 0.001 / sites}

    def priced(modes: Modes) -> float:
        computes = (modes == Mode.COMPUTE).sum() * prices["site"]
        forecasts = (modes >= Mode.FORECAST1).sum() * prices["forecast"]
        return float(prices["fixed"] + len(modes) * prices["step"] + computes + forecasts)

    cost = fit_cost(schedules, [priced(modes) for modes in schedules])

    found = [cost.fixed_s, cost.step_s, cost.site_s, cost.forecast_s]
    np.testing.assert_allclose(found, list(prices.values()), rtol=1e-6)
    assert cost.num_inference_steps == steps


def test_the_median_of_interleaved_rounds_counts(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    runs = 0

    def timed(pipe: Any, modes: Modes, **_: Any) -> float:
        rounds.append(int((modes == Mode.COMPUTE).sum()))
        slow = len(rounds) <= per_round or len(rounds) > 3 * per_round  # warm-up, and a bad minute
        return 100.0 if slow else 1.0 + 0.1 * float((modes == Mode.COMPUTE).sum())

    def count() -> None:
        nonlocal runs
        runs += 1

    monkeypatch.setattr(profile, "timed_call", timed)
    per_round = len(probe_schedules(4, 1))
    cost = measure_profile(tiny_pipe, steps=4, sites=1, prompt="", call={}, repeats=3, on_run=count)

    assert runs == len(rounds) == 4 * per_round
    assert rounds[:per_round] == rounds[per_round : 2 * per_round]
    assert cost.site_s == pytest.approx(0.1)


def test_a_real_profile_prices_computing(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    cost = measure_profile(
        tiny_pipe, steps=4, sites=1, prompt=PROMPTS["train"][0], call=tiny_call, repeats=1
    )

    assert cost.num_inference_steps == 4
    assert cost.reference_s > 0
    assert "forward" not in tiny_pipe.transformer.__dict__
