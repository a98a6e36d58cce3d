from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditcache_rl.bench import keep_profile, measure_profile, profile
from ditcache_rl.bench.profile import probe_schedules
from ditcache_rl.config import load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import write_json
from ditcache_rl.instrument import is_attached
from ditcache_rl.schedules import CostModel, fit_cost, nominal_cost
from ditcache_rl.types import Decision, Mode, Modes, StepInfo
from tests.kit.environment import PROMPTS


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("steps", [4, 28, 50])
def test_probes_tell_every_cost_apart(steps: int, sites: int) -> None:
    schedules = probe_schedules(steps, sites)
    expected = CostModel(
        fixed_s=0.05,
        step_s=0.002,
        site_s=0.01 / sites,
        forecast_s=0.001 / sites,
        num_inference_steps=steps,
        sites=sites,
        resume_s=0.0005 / sites,
    )

    def priced(modes: Modes) -> float:
        return float(replace(expected, num_inference_steps=len(modes)).predict(modes))

    cost = fit_cost(schedules, [priced(modes) for modes in schedules])

    assert cost.to_dict() == pytest.approx(expected.to_dict(), rel=1e-6)


def test_the_median_of_interleaved_rounds_counts(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    shares: list[float] = []

    def timed(pipe: Any, modes: Modes, **_: Any) -> float:
        rounds.append(int((modes == Mode.COMPUTE).sum()))
        slow = len(rounds) <= per_round or len(rounds) > 3 * per_round  # warm-up, and a bad minute
        return 100.0 if slow else 1.0 + 0.1 * float((modes == Mode.COMPUTE).sum())

    monkeypatch.setattr(profile, "timed_call", timed)
    per_round = len(probe_schedules(4, 1))
    cost = measure_profile(
        tiny_pipe, steps=4, sites=1, prompt="", call={}, repeats=3, on_run=shares.append
    )

    assert len(shares) == len(rounds) == 4 * per_round
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert sorted(rounds[:per_round]) == sorted(rounds[per_round : 2 * per_round])
    assert cost.site_s == pytest.approx(0.1)


def test_a_machine_that_slows_down_from_round_to_round_gives_the_same_shares(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_round, calls = len(probe_schedules(4, 1)), 0

    def timed(pipe: Any, modes: Modes, **_: Any) -> float:
        nonlocal calls
        slowness = 1.5 ** (calls // per_round)
        calls += 1
        return slowness * (1.0 + 0.1 * float((modes == Mode.COMPUTE).sum()))

    monkeypatch.setattr(profile, "timed_call", timed)
    cost = measure_profile(tiny_pipe, steps=4, sites=1, prompt="", call={}, repeats=4)

    assert cost.reference_s / cost.with_computes(1) == pytest.approx(1.4 / 1.1)


@pytest.mark.parametrize("mode", [Mode.COMPUTE, Mode.REUSE])
def test_full_compute_is_timed_on_the_plain_pipeline(
    tiny_pipe: Any, tiny_call: dict[str, Any], mode: Mode
) -> None:
    attached = []

    def note(pipe: Any, *_: Any) -> dict[str, Any]:
        attached.append(is_attached(pipe))
        return {}

    modes = np.array([[Mode.COMPUTE], [mode]], dtype=np.int8)
    call = tiny_call | {"callback_on_step_end": note}
    profile.timed_call(tiny_pipe, modes, prompt=PROMPTS["train"][0], call=call)

    assert attached == [mode != Mode.COMPUTE] * 2


@pytest.mark.parametrize("sites", [1, 2])
def test_forecasts_of_one_site_are_timed_with_fitted_coefficients(
    tiny_pipe: Any, tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, sites: int
) -> None:
    decide, used = StaticSchedule.decide, []

    def note(schedule: StaticSchedule, info: StepInfo) -> Decision:
        decision = decide(schedule, info)
        used.append(decision.fitted)
        return decision

    monkeypatch.setattr(StaticSchedule, "decide", note)
    modes = np.full((4, sites), Mode.FORECAST2, dtype=np.int8)
    modes[[0, 2]] = Mode.COMPUTE
    profile.timed_call(tiny_pipe, modes, prompt=PROMPTS["train"][0], call=tiny_call)

    coefficients = [None if fitted is None else fitted.coefficients.tolist() for fitted in used]
    if sites == 1:
        assert coefficients == [None, [[0.5, 0.0, 0.0]], None, [[0.5, 0.5, 0.0]]]
    else:
        assert coefficients == [None] * 4


def test_a_real_profile_prices_computing(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    cost = measure_profile(
        tiny_pipe, steps=4, sites=1, prompt=PROMPTS["train"][0], call=tiny_call, repeats=1
    )

    assert cost.num_inference_steps == 4
    assert cost.reference_s > 0
    assert "forward" not in tiny_pipe.transformer.__dict__


def test_a_profile_is_measured_once_and_kept(
    tiny_env: Path, tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file, calls = load_env(tiny_env), tmp_path / "profile.json", 0

    def measured(*_: Any, **options: Any) -> CostModel:
        nonlocal calls
        calls += 1
        return nominal_cost(options["steps"], options["sites"])

    monkeypatch.setattr(profile, "measure_profile", measured)

    once, again = (keep_profile(config, tiny_pipe, file) for _ in range(2))

    assert once == again == nominal_cost(config.steps[0], config.cache.sites)
    assert calls == 1
    for kept in (nominal_cost(4, 10**9), nominal_cost(5, config.cache.sites)):
        write_json(file, kept.to_dict())
        with pytest.raises(ArtifactError, match=r"profile\.json: .*remove the file"):
            keep_profile(config, tiny_pipe, file)
