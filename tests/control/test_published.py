from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from torch import Tensor

from benchmarks.peers.contender import Setup
from benchmarks.peers.hooks import hook, sea_cache
from ditcache_rl.control import Controller, followed
from ditcache_rl.control.published import AdaCache, DiCache, MagCache, SeaCache, square_tokens
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Mode, RunInfo
from tests.kit.laws import Walk, check_controller, check_rows_decide_alone, random_signals
from tests.kit.pipelines import GUIDANCE, assert_close, build_tiny_pipe, draw, draw_under

RATIOS = FLUX_MAG_RATIOS.tolist()


def one_frame(latents: Tensor) -> Tensor:
    return latents[:, None, None]


MAKERS: dict[str, Callable[[float], Controller]] = {
    "dicache": DiCache,
    "adacache": AdaCache,
    "magcache": lambda value: MagCache(value, [1.1, 0.8] * 4, retention_ratio=0.0),
    "seacache": lambda value: SeaCache(value, lay_out=one_frame),
}


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


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A pipeline of its own: hooks of diffusers leave something on it for good."""
    return build_tiny_pipe()


@contextmanager
def steps_of_the_last_block(pipe: Any) -> Iterator[list[int]]:
    """Note the steps at which the own forward of the last block runs."""
    last, computed = pipe.transformer.single_transformer_blocks[-1], list[int]()
    plain = last.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        computed.append(pipe.scheduler.step_index or 0)
        return plain(*args, **kwargs)

    last.forward = forward
    try:
        yield computed
    finally:
        del last.forward


def check_same_decisions(pipe: Any, applied: Any, controller: Controller, **call: Any) -> list[int]:
    """Check that a controller computes the steps of a hook of diffusers, and draws its latents."""
    with steps_of_the_last_block(pipe) as computed, applied(pipe):
        theirs = draw(pipe, **call)
    ours, log = draw_under(pipe, controller, **call)
    found: list[int] = np.flatnonzero(log.modes[:, 0, 0] == Mode.COMPUTE).tolist()
    assert found == sorted(set(computed))
    assert_close(ours, theirs)
    return found


@pytest.mark.parametrize(
    ("threshold", "steps", "guidance"), [(0.03, 28, {}), (0.12, 12, GUIDANCE), (1.0, 12, {})]
)
def test_magcache_decides_as_that_of_diffusers(
    pipe: Any, threshold: float, steps: int, guidance: dict[str, Any]
) -> None:
    options = {"max_skip_steps": 4, "retention_ratio": 0.1}
    given = {"num_inference_steps": steps, "mag_ratios": FLUX_MAG_RATIOS, **options}
    method = hook("MagCacheConfig", threshold=threshold, **given)(Setup(pipe, steps, list), 0)
    rule = MagCache(threshold, RATIOS, max_skip_steps=4, retention_ratio=0.1)

    computed = check_same_decisions(pipe, method["applied"], rule, steps=steps, **guidance)

    assert len(computed) < steps


def test_magcache_computes_the_least_and_the_most_that_diffusers_does(pipe: Any) -> None:
    for threshold, retained in ((1e9, 0.0), (0.0, 0.2)):
        given: dict[str, Any] = {"num_inference_steps": 12, "mag_ratios": FLUX_MAG_RATIOS}
        given |= {"threshold": threshold, "retention_ratio": retained}
        method = hook("MagCacheConfig", **given)(Setup(pipe, 12, list), 0)
        rule = MagCache(threshold, RATIOS, retention_ratio=retained)
        check_same_decisions(pipe, method["applied"], rule, steps=12)


def test_magcache_is_a_schedule_that_is_known_beforehand() -> None:
    rule = MagCache(0.25, [1.0, 1.1], max_skip_steps=9, retention_ratio=0.2)
    rule.reset(RunInfo(10, np.linspace(1, 0, 11), 2, 1))
    schedule = followed(rule)

    # Steps 0 and 1 are retained. Of ten, the first five have the ratio of the first of two, which
    # adds nothing; then 0.1, 0.31 and from one again.
    assert schedule is not None
    assert schedule.path == (0, 1, 6, 8)


@pytest.mark.parametrize(
    ("threshold", "guidance"), [(0.0, {}), (0.15, GUIDANCE), (0.4, {}), (1e9, {})]
)
def test_seacache_decides_as_that_of_diffusers(
    pipe: Any, threshold: float, guidance: dict[str, Any]
) -> None:
    method = sea_cache(Setup(pipe, 12, list), f"{threshold}, 4", residual_order=0)
    rule = SeaCache(threshold, order=0, max_consecutive_cached=4, lay_out=square_tokens)

    computed = check_same_decisions(pipe, method["applied"], rule, steps=12, **guidance)

    assert (len(computed) == 12) == (threshold == 0)


def test_seacache_goes_on_along_a_line_by_default(pipe: Any) -> None:
    _, log = draw_under(pipe, SeaCache(1e9, lay_out=square_tokens), steps=8)

    # One known residual can only be reused, two make a line; the last step computes.
    assert log.modes[:, 0, 0].tolist() == [0, 1, 1, 0, 2, 2, 0, 0]


def test_tokens_of_a_square_image_are_laid_out_as_flux_packs_them() -> None:
    from diffusers import FluxPipeline

    image = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)

    packed = FluxPipeline._pack_latents(image, 2, 3, 6, 6)

    assert torch.equal(square_tokens(packed), image[:, :, None])


def test_latents_whose_axes_are_not_told_are_refused(pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"hand SeaCache a lay_out, as square_tokens"):
        draw_under(pipe, SeaCache(0.3), steps=4)
    with pytest.raises(ConfigError, match=r"received \(1, 8, 12\); hand SeaCache a lay_out"):
        square_tokens(torch.zeros(1, 8, 12))


def test_noise_levels_that_are_not_of_flow_matching_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"in \[0, 1\], for SeaCache, received up to 14"):
        SeaCache(0.3).reset(RunInfo(2, np.array([14.0, 1.0, 0.0]), 1, 1))


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
    with pytest.raises(ConfigError, match="expected a ratio for every step"):
        MagCache(0.1, [])
    with pytest.raises(ConfigError, match="retention_ratio must"):
        MagCache(0.1, RATIOS, retention_ratio=2.0)
    with pytest.raises(ConfigError, match="max_consecutive_cached must"):
        SeaCache(0.1, max_consecutive_cached=0)
