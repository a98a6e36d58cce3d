"""The embedded pipelines, their environments and the prompts of these."""

import pytest
import torch

from ditcache_rl.config import load_env
from ditcache_rl.pipelines import open_configured
from ditcache_rl.shapes import PIPELINES, SIDE_PX
from ditcache_rl.shapes.recipe.denoisers import DENOISERS
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, parse_caption


@pytest.mark.parametrize("name", PIPELINES)
def test_an_embedded_pipeline_draws_in_the_environment_of_its_name(name: str) -> None:
    config = load_env(name)
    assert config.pipeline.source == f"builtin:{name}"
    assert dict(DENOISERS[name].call).items() == dict(config.pipeline.call).items()
    pipe = open_configured(config.pipeline)

    images = [
        pipe(
            prompt,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            **config.pipeline.call,
        ).images[0]
        for prompt in config.read_prompts("select")[:2]
    ]

    assert {tuple(image.shape) for image in images} == {(3, SIDE_PX, SIDE_PX)}
    assert all(image.std() > 0.02 for image in images), "there is something to see"
    assert (images[0] - images[1]).abs().mean() > 0.02, "prompts matter"


@pytest.mark.parametrize("name", PIPELINES)
def test_no_prompt_of_one_part_names_the_first_object_of_another(name: str) -> None:
    config = load_env(name)
    parts = {
        part: [parse_caption(text) for text in config.read_prompts(part)]
        for part in ("train", "select", "test")
    }

    first = [drawn[: len(ATTRIBUTES)] for part in parts.values() for drawn in part]
    assert len(set(first)) == len(first)
    behind = {(len(drawn) - len(ATTRIBUTES)) // 2 for part in parts.values() for drawn in part}
    assert behind == set(range(DENOISERS[name].behind + 1))
