import numpy as np
import pytest

from benchmarks.worlds.tiers import figures_of, lines
from ditcache_rl.interval import mean_interval
from ditcache_rl.rl.placing import Standing


def test_figures_are_those_of_the_best_single_tier_over_all_targets() -> None:
    played = [
        Standing(
            name,
            "schedule",
            {
                "cache": np.array([0.0, 1.0]),
                "device": np.array([1.0, 2.0]) * device,
                "host": np.array([1.0, 2.0]) * host,
                "policy": np.array([2.0, 4.0]),
            },
        )
        for name, device, host in (("8/32", 1.8, 0.0), ("16/32", 0.0, 1.6))
    ]

    found = figures_of(played)

    # The device earns 0.9 and 1.8 on average over the targets, the host less.
    gains = np.array([1.1, 2.2])
    assert found["tiers_over_fixed_return"] == pytest.approx(gains.mean())
    assert found["tiers_over_rule_return"] == pytest.approx((2.0 + 3.0) / 2)
    assert found["tiers_over_fixed_low_return"] == pytest.approx(mean_interval(gains).low)
    assert lines(played)[0]["target"] == "8/32"
