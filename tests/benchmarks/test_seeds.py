import numpy as np

from benchmarks.harness.seeds import iqm, stratified


def improvement(table: np.ndarray) -> float:
    return float((table > 0).mean() + (table == 0).mean() / 2)


def test_equal_trainings_are_no_improvement() -> None:
    found = stratified(np.zeros((5, 6)), improvement, np.random.default_rng(0))

    assert found == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_seeds_are_resampled_within_their_budget() -> None:
    """Budgets that differ by far, and seeds that don't, leave nothing to be unsure of."""
    table = np.tile(np.arange(4.0) * 100, (5, 1))

    found = stratified(table, iqm, np.random.default_rng(0))

    assert found["low"] == found["value"] == found["high"] == 150.0


def test_the_interval_holds_the_spread_of_the_seeds() -> None:
    table = np.random.default_rng(1).normal(1.0, 0.5, (5, 6))

    found = stratified(table, lambda x: float(x.mean()), np.random.default_rng(0))

    assert found["low"] < table.mean() < found["high"]
    assert found["high"] - found["low"] < 1.0
