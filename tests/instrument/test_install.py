"""What else may work on a denoiser, and what may not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import MagCacheConfig, apply_first_block_cache, apply_layerwise_casting

import ditcache_rl as dc
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import BlockRunner
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import CALL, STEPS, build_tiny_pipe, draw


def now() -> int:
    return 500


CONFIGS = [
    FirstBlockCacheConfig(threshold=0.1),
    FasterCacheConfig(current_timestep_callback=now),
    PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=now
    ),
    TaylorSeerCacheConfig(cache_interval=2),
    MagCacheConfig(num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS),
]


def attach_policy(pipe: Any) -> None:
    dc.attach(pipe, untrained_policy(build_tiny_pipe(), CALL))


def attach_controller(pipe: Any) -> None:
    dc.attach(pipe, EveryK(2))


def enter_runner(pipe: Any) -> None:
    BlockRunner(pipe, EveryK(2), TieredCache()).__enter__()


@pytest.mark.parametrize("attach", [attach_policy, attach_controller, enter_runner])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_cache_of_diffusers_is_named_and_refused(
    config: Any, attach: Callable[[Any], None]
) -> None:
    pipe = build_tiny_pipe()
    plain = draw(pipe)
    name = type(config).__name__.removesuffix("Config")
    pipe.transformer.enable_cache(config)

    with pytest.raises(StateError, match=rf"under {name}; .*pipe\.transformer\.disable_cache\(\)"):
        attach(pipe)

    pipe.transformer.disable_cache()
    with dc.cached(pipe, EveryK(1)):
        assert torch.equal(draw(pipe), plain)


def test_hooks_of_a_cache_that_nobody_enabled_are_named_and_refused() -> None:
    pipe = build_tiny_pipe()
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.1))

    with pytest.raises(StateError, match=r"first_block_cache, whose FBCHeadBlockHook is on pipe\."):
        dc.attach(pipe, EveryK(2))


def test_a_cache_that_comes_later_is_refused_at_the_next_request_and_nothing_breaks() -> None:
    pipe = build_tiny_pipe()
    with dc.cached(pipe, EveryK(2)):
        before = draw(pipe)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(StateError, match="under FirstBlockCache"):
            draw(pipe)
        pipe.transformer.disable_cache()
        assert torch.equal(draw(pipe), before)


def test_cache_dit_is_named_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIT_LOG_LEVEL", "error")
    cache_dit = pytest.importorskip("cache_dit")
    pipe, policy = build_tiny_pipe(), untrained_policy(build_tiny_pipe(), CALL)
    plain = draw(pipe)
    cache_dit.enable_cache(pipe, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1))
    try:
        with pytest.raises(StateError, match=r"under cache-dit .*cache_dit\.disable_cache\(pipe\)"):
            dc.attach(pipe, policy)
    finally:
        cache_dit.disable_cache(pipe)

    with dc.cached(pipe, EveryK(1)):
        assert torch.equal(draw(pipe), plain)


def test_a_teacache_that_replaced_the_forward_of_the_class_is_named_and_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = build_tiny_pipe()
    monkeypatch.setattr(type(pipe.transformer), "enable_teacache", True, raising=False)

    with pytest.raises(StateError, match="under TeaCache"):
        dc.attach(pipe, EveryK(2))


def test_hooks_that_cache_nothing_are_left_alone() -> None:
    pipe = build_tiny_pipe()
    apply_layerwise_casting(pipe.transformer, torch.float32, torch.float32)

    with dc.cached(pipe, EveryK(2)) as run:
        draw(pipe)

    assert run.logs[0].compute_share == [0.5]
