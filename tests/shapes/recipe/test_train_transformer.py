from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FluxPipeline, StableDiffusion3Pipeline

from ditcache_rl.shapes.recipe import train_transformer
from ditcache_rl.shapes.recipe.components import build_autoencoder
from ditcache_rl.shapes.recipe.denoisers import DENOISERS, Denoiser
from ditcache_rl.shapes.recipe.scenes import is_held_out, parse_caption
from ditcache_rl.shapes.recipe.train_transformer import encode, main

CLASSES = {"shapes": FluxPipeline, "shapes-guided": StableDiffusion3Pipeline}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode 16 scenes at a time."""
    monkeypatch.setattr(train_transformer, "_PIECE", 16)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return build_autoencoder()


@pytest.fixture(params=DENOISERS)
def model(request: pytest.FixtureRequest) -> Denoiser:
    return DENOISERS[request.param]()


def test_the_training_set_holds_no_held_out_caption(
    vae: AutoencoderKL, model: Denoiser, tmp_path: Path
) -> None:
    data = encode(vae, model, 40, 1, tmp_path)

    captions = model.tokenizer.batch_decode(data.tokens, skip_special_tokens=True)
    seen = torch.tensor([parse_caption(text)[:6] for text in captions])
    assert len(seen) == len(data.latents) == 40
    assert not is_held_out(seen).any()


def test_what_is_encoded_is_not_encoded_again_and_more_begins_with_the_same(
    vae: AutoencoderKL, tmp_path: Path
) -> None:
    model = DENOISERS["shapes-guided"]()
    first = encode(vae, model, 16, 1, tmp_path)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}

    more = encode(vae, model, 24, 1, tmp_path)

    assert len(more.tokens) == 24
    assert torch.equal(more.latents[:16], first.latents)
    assert torch.equal(more.tokens[:16], first.tokens)
    assert not torch.equal(more.tokens[:8], more.tokens[16:])
    assert written.items() <= {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}.items()


@pytest.mark.parametrize("name", DENOISERS)
def test_the_recipe_writes_a_pipeline_with_its_card(
    name: str, vae: AutoencoderKL, tmp_path: Path
) -> None:
    vae.save_pretrained(tmp_path / "vae")
    taken = ["--autoencoder", str(tmp_path / "vae")]

    main([name, "--out", str(tmp_path), *taken, "--steps=1", "--scenes=16", "--batch=2"])

    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert type(pipe) is CLASSES[name]
    card = (tmp_path / "pipeline" / "README.md").read_text()
    assert card.startswith(f"# {name}: ")
    assert f"A stock `{type(pipe).__name__}`" in card
    assert f"train_transformer {name} --autoencoder" in card


def test_the_guided_pipeline_takes_at_most_25_megabytes(tmp_path: Path) -> None:
    model = DENOISERS["shapes-guided"]()
    train_transformer.assemble(model, build_autoencoder()).save_pretrained(tmp_path)

    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 25e6
