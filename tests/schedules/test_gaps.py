import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules.forecast import line_coefficients
from ditcache_rl.schedules.gaps import GapModel
from ditcache_rl.types import HISTORY
from tests.kit.pacers import gap_model

SIGMAS = np.array([1.0, 0.9, 0.75, 0.6, 0.5, 0.3, 0.2, 0.05, 0.0])
STEPS = len(SIGMAS) - 1


def known(*steps: int) -> np.ndarray:
    padded = [*steps, *[-1] * (HISTORY - len(steps))]
    return np.array([padded])


@given(
    computed=st.sets(st.integers(0, STEPS - 2), min_size=1, max_size=3),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_steps_of_a_gap_add_up_to_its_update_wherever_it_ends(
    computed: set[int], seed: int, data: st.DataObject
) -> None:
    past = known(*sorted(computed, reverse=True))
    newest = int(past[0, 0])
    stop = data.draw(st.integers(newest + 1, STEPS))
    gaps, moves = gap_model(seed), np.diff(SIGMAS)

    walked = np.zeros(HISTORY)
    walked[0] = moves[newest]
    for step in range(newest + 1, stop):
        walked += moves[step] * gaps.coefficients(past, step, SIGMAS)[0]

    np.testing.assert_allclose(walked, gaps.update(past, np.array([stop]), SIGMAS)[0], atol=1e-12)


def test_a_gap_without_a_step_is_what_the_sampler_does() -> None:
    update = gap_model(1).update(known(3, 1, 0), np.array([4]), SIGMAS)[0]

    np.testing.assert_array_equal(update, [SIGMAS[4] - SIGMAS[3], 0.0, 0.0])


@pytest.mark.parametrize("past", [(4,), (4, 2), (4, 2, 1)])
def test_outputs_on_a_line_are_carried_on_exactly(past: tuple[int, ...]) -> None:
    slope = 0.0 if len(past) == 1 else 2.0
    outputs = 3.0 + slope * SIGMAS[list(past)]
    update = gap_model().update(known(*past), np.array([7]), SIGMAS)[0][: len(past)]
    # The integral of a line over the noise levels.
    wanted = 3.0 * (SIGMAS[7] - SIGMAS[4]) + slope / 2 * (SIGMAS[7] ** 2 - SIGMAS[4] ** 2)

    assert update @ outputs == pytest.approx(wanted)


def test_arrays_give_the_model_back_and_others_are_refused() -> None:
    own = gap_model(2)
    arrays = own.to_arrays()
    again = GapModel.from_arrays(arrays)
    past = known(5, 3, 2)

    np.testing.assert_array_equal(
        own.update(past, np.array([8]), SIGMAS), again.update(past, np.array([8]), SIGMAS)
    )
    with pytest.raises(ArtifactError, match="gap model"):
        GapModel.from_arrays({name: array for name, array in arrays.items() if name != "mean"})


def test_a_line_is_what_the_coefficients_of_schedules_start_from() -> None:
    assert line_coefficients((4, 2), SIGMAS, 5).sum() == pytest.approx(1.0)
