import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, FluxPipeline

from ditcache_rl.shapes import CALL, MAX_SEQUENCE_LENGTH, SIDE_PX
from ditcache_rl.shapes.recipe.components import build_autoencoder, build_tokenizer, vocabulary
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, caption
from ditcache_rl.shapes.recipe.train_transformer import Denoiser, assemble

CAPTIONS = [
    caption(row) for row in itertools.product(*(range(len(v)) for v in ATTRIBUTES.values()))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained pipeline as training saves the trained one."""
    saved = tmp_path_factory.mktemp("shapes") / "pipeline"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assemble(Denoiser(), build_autoencoder()).save_pretrained(saved)
    return saved


def test_vocabulary_has_no_word_twice() -> None:
    assert len(set(vocabulary())) == len(vocabulary())


def test_every_caption_survives_the_tokenizer_without_unknown_words() -> None:
    tokenizer = build_tokenizer()

    tokens = tokenizer(CAPTIONS)["input_ids"]

    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == CAPTIONS
    assert not any(tokenizer.unk_token_id in row for row in tokens)


def test_every_caption_fits_with_its_end_token_and_nothing_is_cut() -> None:
    tokenizer = build_tokenizer()

    tokens = tokenizer(CAPTIONS)["input_ids"]

    assert {len(row) for row in tokens} == {MAX_SEQUENCE_LENGTH}
    assert {row[-1] for row in tokens} == {tokenizer.eos_token_id}


def test_a_word_that_no_caption_has_is_unknown() -> None:
    tokenizer = build_tokenizer()

    assert tokenizer("zebra")["input_ids"] == [tokenizer.unk_token_id, tokenizer.eos_token_id]


@pytest.mark.parametrize("loader", [FluxPipeline, AutoPipelineForText2Image])
def test_the_saved_pipeline_loads_in_float32_and_draws(
    folder: Path, loader: type[FluxPipeline]
) -> None:
    pipe = loader.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)

    images = pipe(
        CAPTIONS[:2],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **CALL,
    ).images

    assert type(pipe) is FluxPipeline
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}
    assert images.shape == (2, SIDE_PX, SIDE_PX, 3)
    assert np.isfinite(images).all()


def test_the_saved_tokenizers_are_the_ones_that_were_built(folder: Path) -> None:
    pipe = FluxPipeline.from_pretrained(folder)

    expected = build_tokenizer()(CAPTIONS[0])["input_ids"]
    assert pipe.tokenizer(CAPTIONS[0])["input_ids"] == expected
    assert pipe.tokenizer_2(CAPTIONS[0])["input_ids"] == expected
