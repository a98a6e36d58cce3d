"""Early steps on a grid of half the size."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from benchmarks.zoo.pipelines import model
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, StaticSchedule
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.extras.coarse import (
    CoarseDenoiser,
    coarse_steps,
    coarsen,
    mean_places,
    pack,
    raster,
    unpack,
)
from ditcache_rl.extras.upscaler import Upscaler, load_upscaler
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.taps import taps_of
from ditcache_rl.shapes import UPSCALER
from ditcache_rl.types import Mode
from tests.kit.pipelines import draw

SIDE = 8  # tokens per side of the tiny pipeline, of which there are 64


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def flux_call(places: Tensor) -> dict[str, Any]:
    return {"hidden_states": randn(2, 64, 16), "timestep": torch.full((2,), 0.6), "img_ids": places}


Drawn = Callable[..., tuple[Tensor, RequestLog]]


@pytest.fixture(params=["outside", "inside"])
def draw_coarse(request: pytest.FixtureRequest) -> Drawn:
    """Draw with coarse steps that are entered outside or inside of what caches."""

    def drawn(pipe: Any, steps: int, **options: Any) -> tuple[Tensor, RequestLog]:
        logs: list[RequestLog] = []
        controller = options.pop("controller", AllCompute())
        runner = BlockRunner(pipe, controller, TieredCache(), on_finish=logs.append, **options)
        around: list[AbstractContextManager[object]] = [coarse_steps(pipe, steps), runner]
        with ExitStack() as stack:
            for one in around if request.param == "outside" else reversed(around):
                stack.enter_context(one)
            return draw(pipe), logs[0]

    return drawn


@contextmanager
def tokens_of(pipe: Any) -> Iterator[list[int]]:
    seen: list[int] = []
    handle = pipe.transformer.x_embedder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    try:
        yield seen
    finally:
        handle.remove()


def test_tokens_are_laid_out_as_flux_does() -> None:
    latents = randn(2, 4, 6, 10)

    packed = FluxPipeline._pack_latents(latents, 2, 4, 6, 10)

    assert torch.equal(pack(latents), packed)
    assert torch.equal(unpack(packed, (3, 5)), latents)
    ids = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(raster(3, 5).float(), ids)


def test_a_coarse_place_is_the_middle_of_four() -> None:
    places = mean_places(raster(4, 6), (4, 6))

    assert places.shape == (6, 3)
    assert places[0].tolist() == [0, 0.5, 0.5]
    assert places[-1].tolist() == [0, 2.5, 4.5]


def test_coarse_latents_are_a_mixture_at_their_own_noise_level() -> None:
    clean, noise = randn(1, 4, 1, 1).expand(1, 4, 64, 64), randn(1, 4, 64, 64)
    sigma = torch.full((1, 1, 1, 1), 0.8)

    coarse, level = coarsen((1 - sigma) * clean + sigma * noise, sigma)

    own_noise = (coarse - (1 - level) * clean[..., :32, :32]) / level
    # 4096 draws: the standard deviation of their deviation is 1 / sqrt(2 * 4096) = 0.011.
    assert float(own_noise.std()) == pytest.approx(1, abs=0.04)
    assert float(coarsen(noise, torch.ones(1, 1, 1, 1))[1]) == 1


def test_a_denoiser_that_knows_the_answer_gives_it_on_the_full_grid(tiny_pipe: Any) -> None:
    coarse, call = CoarseDenoiser(tiny_pipe.transformer), flux_call(raster(8, 8))
    clean = 0.3  # the same everywhere, so that bilinear is exact

    def knows(**given: Any) -> tuple[Tensor]:
        assert given["hidden_states"].shape == (2, 16, 16)
        return ((given["hidden_states"] - clean) / given["timestep"][:, None, None],)

    (velocity,) = coarse.run(knows, (), call)

    expected = (call["hidden_states"] - clean) / 0.6
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"img_ids": raster(8, 8).flip(0)},
        {"img_ids": raster(4, 8)},
        {"controlnet_block_samples": [randn(2, 64, 32)]},
        {"hidden_states": randn(2, 9, 16), "img_ids": raster(3, 3)},
    ],
    ids=["turned", "other size", "controlnet", "odd sides"],
)
def test_an_unknown_grid_is_computed_as_it_is(change: dict[str, Any], tiny_pipe: Any) -> None:
    coarse, call = CoarseDenoiser(tiny_pipe.transformer), flux_call(raster(8, 8))
    call |= change

    given = coarse.run(lambda **given: given, (), call)

    assert given.keys() == call.keys()
    assert all(given[name] is call[name] for name in call)


@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_only_the_first_steps_are_coarse(
    blocks: str | None, tiny_pipe: Any, draw_coarse: Drawn
) -> None:
    plain = draw(tiny_pipe)

    with tokens_of(tiny_pipe) as seen:
        coarse, _ = draw_coarse(tiny_pipe, 2, blocks=blocks)

    assert seen == [16, 16, 64, 64, 64, 64]
    assert torch.equal(draw(tiny_pipe), plain)
    assert torch.equal(draw_coarse(tiny_pipe, 0, blocks=blocks)[0], plain)
    assert not torch.equal(coarse, plain)
    with coarse_steps(tiny_pipe, 2):
        assert torch.equal(draw(tiny_pipe), coarse)


def test_every_call_begins_with_coarse_steps(tiny_pipe: Any) -> None:
    with tokens_of(tiny_pipe) as seen, coarse_steps(tiny_pipe, 1):
        draw(tiny_pipe, steps=3)
        draw(tiny_pipe, steps=2)

    assert seen == [16, 64, 64, 16, 64]


def test_the_pipeline_is_restored_after_an_exception(tiny_pipe: Any) -> None:
    def fail() -> None:
        with coarse_steps(tiny_pipe, 2):
            assert taps_of(tiny_pipe.transformer)
            raise ZeroDivisionError

    plain, before = draw(tiny_pipe), dict(vars(tiny_pipe.transformer))
    with pytest.raises(ZeroDivisionError):
        fail()

    assert vars(tiny_pipe.transformer) == before
    assert torch.equal(draw(tiny_pipe), plain)


def test_calls_of_another_thread_are_left_alone(tiny_pipe: Any) -> None:
    plain = draw(tiny_pipe)

    with coarse_steps(tiny_pipe, 2), ThreadPoolExecutor(1) as other:
        elsewhere = other.submit(draw, tiny_pipe).result()
        here = draw(tiny_pipe)

    assert torch.equal(elsewhere, plain)
    assert not torch.equal(here, plain)


def test_coarse_steps_take_the_upscaler_that_they_are_given(tiny_pipe: Any) -> None:
    with coarse_steps(tiny_pipe, 2):
        bilinear = draw(tiny_pipe)
    with coarse_steps(tiny_pipe, 2, upscaler=load_upscaler(UPSCALER)):
        assert not torch.equal(draw(tiny_pipe), bilinear)


def test_what_a_coarse_step_returned_is_reused_on_the_full_grid(
    tiny_pipe: Any, draw_coarse: Drawn
) -> None:
    modes = np.array([[Mode.COMPUTE], [Mode.REUSE], *[[Mode.COMPUTE]] * 4], dtype=np.int8)

    _, log = draw_coarse(tiny_pipe, 1, blocks="transformer", controller=StaticSchedule.of(modes))

    assert log.modes[:, 0, 0].tolist() == modes[:, 0].tolist()


def test_what_blocks_kept_of_another_grid_is_a_miss(tiny_pipe: Any, draw_coarse: Drawn) -> None:
    modes = np.array([[Mode.COMPUTE], [Mode.REUSE], *[[Mode.COMPUTE]] * 4], dtype=np.int8)

    _, log = draw_coarse(tiny_pipe, 1, controller=StaticSchedule.of(modes))

    assert log.modes[1, 0, 0] == Mode.COMPUTE


def test_sd3_latents_are_halved_as_they_are() -> None:
    denoiser: Any = model("SD3Transformer2DModel")
    coarse = CoarseDenoiser(denoiser)
    channels = denoiser.config.in_channels
    call = {"hidden_states": randn(1, channels, 8, 16), "timestep": torch.tensor([600.0])}

    def knows(**given: Any) -> tuple[Tensor]:
        assert given["hidden_states"].shape == (1, channels, 4, 8)
        return ((given["hidden_states"] - 0.3) / (given["timestep"] / 1000),)

    (velocity,) = coarse.run(knows, (), call)

    torch.testing.assert_close(velocity, (call["hidden_states"] - 0.3) / 0.6, rtol=1e-4, atol=1e-5)


def test_a_denoiser_without_a_known_grid_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"one of Flux.*, received PixArtTransformer2D"):
        CoarseDenoiser(model("PixArtTransformer2DModel"))


def test_wrong_options_are_refused(tiny_pipe: Any) -> None:
    with (
        pytest.raises(ConfigError, match="coarse_steps must be >= 0, received -1"),
        coarse_steps(tiny_pipe, -1),
    ):
        pass
    with pytest.raises(ConfigError, match=r"of 4 channels, .* received one for 16"):
        CoarseDenoiser(tiny_pipe.transformer, upscaler=Upscaler(16))
