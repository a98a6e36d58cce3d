import numpy as np
import pytest

from ditcache_rl.schedules import CostModel, Objective, ScheduleTable, Scored, spaced_table

#: 10 steps: an image costs 0.1 s, a step 0.01 s, computing it 0.08 s: 1.0 s for full compute.
COST = CostModel(
    fixed_s=0.1, step_s=0.01, site_s=0.08, forecast_s=0.0, num_inference_steps=10, sites=1
)
TABLE = spaced_table(np.linspace(1, 0, 11), 1)


def with_quality(known: dict[int, tuple[float, float]]) -> ScheduleTable:
    """Say what PSNR in dB and SSIM some lines reach."""
    return TABLE.with_lines({n: Scored(TABLE[n].schedule, *found) for n, found in known.items()})


def test_quality_weighs_psnr_in_bels_and_ssim() -> None:
    assert Objective().quality(30.0, 0.9) == pytest.approx(3.9)
    assert Objective(psnr=2.0, ssim=3.0).quality(30.0, 0.9) == pytest.approx(8.7)
    both = Objective(psnr=2.0, ssim=3.0).quality(np.array([30.0, 20.0]), np.array([0.9, 0.5]))
    np.testing.assert_allclose(both, [8.7, 5.5])


@pytest.mark.parametrize(
    ("weight", "computes"),
    [
        # Quality minus weight * time share, by hand:
        (0.0, 8),  # 2.70, 3.50, 3.70, 3.94
        (0.5, 8),  # 2.56, 3.32, 3.40, 3.52
        (1.0, 2),  # 2.42, 3.14, 3.10, 3.10
        (4.0, 2),  # 1.58, 2.06, 1.30, 0.58
        (20.0, 1),  # -2.90, -3.70, ...
    ],
)
def test_a_tradeoff_takes_the_computes_of_the_best_expected_reward(
    weight: float, computes: int
) -> None:
    table = with_quality({1: (20.0, 0.7), 2: (27.0, 0.8), 5: (28.0, 0.9), 8: (30.0, 0.94)})

    assert Objective().best_tradeoff(table, COST, weight) == computes


def test_the_weights_of_the_objective_count() -> None:
    table = with_quality({2: (30.0, 0.5), 5: (20.0, 0.9)})

    assert Objective(psnr=1, ssim=0).best_tradeoff(table, COST, 0.0) == 2
    assert Objective(psnr=0, ssim=1).best_tradeoff(table, COST, 0.0) == 5


def test_a_table_that_was_never_scored_is_taken_in_the_middle() -> None:
    assert Objective().best_tradeoff(TABLE, COST, 1.0) == 6
