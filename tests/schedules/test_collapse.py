import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import collapse, euler_steps
from ditcache_rl.schedules.forecast import line_coefficients
from ditcache_rl.types import HISTORY, Floats
from tests.kit.doubles import fitted_schedule


def walked(schedule: Schedule, sigmas: Floats, linear: Floats, outputs: Floats) -> Floats:
    """Walk step by step, weighing past outputs by hand; outputs are those of computed steps."""
    latents, computed = np.ones(1), list[int]()
    for step, (keep, add) in enumerate(linear):
        if schedule.modes[step, 0] == 0:
            computed.insert(0, step)
        known = computed[:HISTORY]
        if step in computed:
            output = outputs[step]
        elif schedule.coefficients is not None:
            output = schedule.coefficients[step, : len(known)] @ outputs[known]
        else:
            output = line_coefficients(computed[1::-1], sigmas, step)[: len(known)] @ outputs[known]
        latents = keep * latents + add * output
    return latents


PATHS = st.sets(st.integers(1, 11)).map(lambda chosen: (0, *sorted(chosen)))


@given(PATHS, st.integers(0, 1000))
def test_updates_take_latents_where_single_steps_do(path: tuple[int, ...], seed: int) -> None:
    generator = np.random.default_rng(seed)
    sigmas = np.sort(generator.uniform(0, 1, 13))[::-1]
    linear = generator.uniform(0.5, 1.5, (12, 2))
    schedule, outputs = fitted_schedule(12, path, seed=seed), generator.standard_normal(12)

    found = collapse(schedule, sigmas, linear)
    latents, known = torch.ones(1, dtype=torch.float64), list[torch.Tensor]()
    for place, step in enumerate(path):
        known.insert(0, torch.tensor([outputs[step]]))
        latents = found.advance(place, latents, known[:HISTORY])

    # Sums of a dozen numbers of order 1, in two orders.
    assert float(latents) == pytest.approx(
        float(walked(schedule, sigmas, linear, outputs)[0]), abs=1e-11
    )


def test_forecasts_without_coefficients_are_those_of_newton() -> None:
    sigmas = np.linspace(1, 0, 5)

    found = collapse(Schedule.from_text("CRC2"), sigmas, euler_steps(sigmas))

    # 2 computed outputs allow a line: at the last step 1.5 of the newest, -0.5 of the other.
    assert found.path == (0, 2)
    np.testing.assert_allclose(found.updates, [[-0.5, 0, 0], [-0.25 * 2.5, 0.25 * 0.5, 0]])
    np.testing.assert_allclose(found.levels, [1, 0.5, 0])


def test_full_compute_is_the_plain_sampler() -> None:
    sigmas = np.linspace(1, 0, 5)

    found = collapse(Schedule.from_text("CCCC"), sigmas, euler_steps(sigmas))

    np.testing.assert_allclose(found.updates, [[-0.25, 0, 0]] * 4)
    assert (found.keeps == 1).all()


def test_latents_are_not_moved_in_less_than_single_precision() -> None:
    sigmas = np.linspace(1, 0, 3)
    found = collapse(Schedule.from_text("CR"), sigmas, euler_steps(sigmas))
    output = torch.ones(2, dtype=torch.bfloat16)

    assert found.advance(0, output, [output]).dtype == torch.float32
    assert found.advance(0, output.double(), [output]).dtype == torch.float64


def test_several_sites_are_refused() -> None:
    sigmas = np.linspace(1, 0, 3)

    with pytest.raises(ConfigError, match=r"one site.* received 2 sites"):
        collapse(Schedule.from_text("CR | CR"), sigmas, euler_steps(sigmas))


def test_another_step_count_is_refused() -> None:
    sigmas = np.linspace(1, 0, 4)

    with pytest.raises(ConfigError, match=r"2 steps of the schedule, received 3"):
        collapse(Schedule.from_text("CR"), sigmas, euler_steps(sigmas))
