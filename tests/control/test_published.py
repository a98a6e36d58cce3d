from collections.abc import Callable

import numpy as np
import pytest
import torch

from ditcache_rl.control import Controller
from ditcache_rl.control.published import AdaCache, DiCache
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Mode
from tests.kit.laws import Walk, check_controller, check_rows_decide_alone, random_signals

MAKERS: dict[str, Callable[[float], Controller]] = {"dicache": DiCache, "adacache": AdaCache}


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_every_published_rule_is_a_controller(name: str, sites: int) -> None:
    check_controller(lambda: MAKERS[name](1.5), sites=sites)


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_decides_without_its_neighbours(name: str) -> None:
    check_rows_decide_alone(lambda: MAKERS[name](1.5))


@pytest.mark.parametrize("name", MAKERS)
def test_a_larger_value_never_computes_more(name: str) -> None:
    signals = random_signals(steps=20, rows=4, sites=1)

    computed = [
        int((Walk(MAKERS[name](v), signals, range(4)).to_the_end() == Mode.COMPUTE).sum())
        for v in (1e-9, 0.3, 1.0, 3.0, 1e9)
    ]

    assert computed == sorted(computed, reverse=True)
    assert computed[0] == 80


def test_dicache_adds_up_the_change_of_the_probe_from_step_to_step() -> None:
    signals = random_signals(steps=8, rows=1, sites=1)
    growth = 2.0 ** torch.arange(8.0)  # a relative change of 1 at every step
    signals = signals._replace(probes=growth[:, None, None] * torch.ones(8, 1, 5))

    modes = Walk(DiCache(2.5), signals, [0]).to_the_end()

    # 1, 2, 3 and from zero again; one known residual can only be reused, two make a line.
    assert modes[:, 0, 0].tolist() == [0, 1, 1, 0, 2, 2, 0, 2]


def test_adacache_skips_as_long_as_the_codebook_allows() -> None:
    signals = random_signals(steps=10, rows=1, sites=1)
    growth = 1.06 ** torch.arange(10.0)  # 6 % from step to step: good for 4 steps
    residuals = growth[:, None, None, None] * torch.ones(10, 1, 1, 5)

    modes = Walk(AdaCache(1.0), signals._replace(residuals=residuals), [0]).to_the_end()

    # Two computed steps tell the change; then 1.06 ** 4 in 4 steps is 6.6 % per step, as much.
    assert np.flatnonzero(modes[:, 0, 0] == Mode.COMPUTE).tolist() == [0, 1, 5, 9]


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold must be >= 0"):
        DiCache(-1.0)
    with pytest.raises(ConfigError, match="pace must be > 0"):
        AdaCache(0.0)
