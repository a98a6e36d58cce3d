from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForText2Image,
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
)
from torch import Tensor

from ditcache_rl.shapes import SIDE_PX
from ditcache_rl.shapes.recipe.components import build_autoencoder
from ditcache_rl.shapes.recipe.denoisers import DENOISERS, Batch, Denoiser
from ditcache_rl.shapes.recipe.scenes import caption, sample_attributes
from ditcache_rl.shapes.recipe.train_transformer import assemble

CLASSES = {FluxPipeline, StableDiffusion3Pipeline}


def captions_of(model: Denoiser, count: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    drawn = sample_attributes(count, generator, behind=model.behind)
    return [caption(row) for row in drawn.tolist()]


@pytest.fixture(scope="module", params=DENOISERS)
def model(request: pytest.FixtureRequest) -> Denoiser:
    """A denoiser that answers something: as built it would answer zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = DENOISERS[request.param]().eval()
        for parameter in built.transformer.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return built


@pytest.fixture(scope="module")
def folder(model: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a pipeline as training saves the trained one."""
    saved = tmp_path_factory.mktemp("shapes") / "pipeline"
    assemble(model, build_autoencoder()).save_pretrained(saved)
    model.float()
    return saved


@pytest.mark.parametrize("name", DENOISERS)
def test_an_untrained_denoiser_answers_zero(name: str) -> None:
    model = DENOISERS[name]()
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = model.tokens_of(captions_of(model, 2))

    with torch.no_grad():
        velocity = model(Batch(noise, noise, torch.rand(2), torch.ones(2), tokens))

    assert torch.equal(velocity, torch.zeros_like(noise))


def test_a_denoiser_is_trained_on_what_its_pipeline_computes(model: Denoiser) -> None:
    pipe = model.pipeline(build_autoencoder())
    pipe.set_progress_bar_config(disable=True)
    asked: list[Mapping[str, Any]] = []
    answered: list[Tensor] = []

    def listen(_: Any, __: Any, given: Mapping[str, Any], output: tuple[Tensor]) -> None:
        asked.append(given)
        answered.append(output[0])

    handle = pipe.transformer.register_forward_hook(listen, with_kwargs=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    packed = FluxPipeline._pack_latents(latents, *latents.shape)
    is_flux = isinstance(pipe, FluxPipeline)
    call = {**model.call, "latents": packed if is_flux else latents, "output_type": "latent"}
    text = captions_of(model, 1)
    pipe(text, num_inference_steps=2, **call)
    handle.remove()

    sigma = pipe.scheduler.sigmas[:1]
    guidance = asked[0].get("guidance", torch.ones(1))
    with torch.no_grad():
        ours = model(Batch(latents, latents, sigma, guidance, model.tokens_of(text)))

    theirs = answered[0][-1:]  # the branch of the caption is the last
    if is_flux:
        theirs = FluxPipeline._unpack_latents(theirs, 16, 16, 1)
    assert theirs.abs().mean() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)  # float32, other batch


@pytest.mark.parametrize("loader", [DiffusionPipeline, AutoPipelineForText2Image])
def test_the_saved_pipeline_loads_in_float32_and_draws(
    model: Denoiser, folder: Path, loader: type[DiffusionPipeline]
) -> None:
    pipe = loader.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    images = pipe(
        captions_of(model, 2),
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **model.call,
    ).images

    assert type(pipe) in CLASSES
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert images.shape == (2, SIDE_PX, SIDE_PX, 3)
    assert np.isfinite(images).all()


def test_the_saved_tokenizers_are_the_ones_that_were_built(model: Denoiser, folder: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(folder)
    text = captions_of(model, 1)[0]

    saved = [part for name, part in pipe.components.items() if name.startswith("tokenizer")]
    assert len(saved) >= 2
    for tokenizer in saved:
        assert tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
