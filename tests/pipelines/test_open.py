import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from ditcache_rl.config import PipelineConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import model_identity, open_configured, open_pipeline, open_shared


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_is_opened_in_the_precision_asked_for(dtype: str, tiny_folder: Path) -> None:
    pipe = open_pipeline(str(tiny_folder), dtype=dtype, device="cpu")

    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {getattr(torch, dtype)}


@pytest.mark.parametrize("dtype", ["float", "int8", "float8_e4m3fn", "Tensor", "nonsense", ""])
def test_what_is_no_precision_of_weights_is_refused(dtype: str, tiny_folder: Path) -> None:
    if dtype == "float":  # torch's other name of float32
        assert open_pipeline(str(tiny_folder), dtype=dtype, device="cpu").dtype == torch.float32
        return
    with pytest.raises(
        ConfigError, match=f"must name a torch dtype as 'float32', received '{dtype}'"
    ):
        open_pipeline(str(tiny_folder), dtype=dtype)


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it fail, with a traceback, to load a pipeline."""
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", None)


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize("device", ["cudda", "cuda:99", "meta", "", "cpu:x"])
def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(device: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"\[pipeline\] device must be auto, .* received '{device}'"
    ):
        open_pipeline("builtin:shapes", device=device)


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize(("kind", "said"), [("int3", "received 'int3'"), ("fp8", "torchao")])
def test_a_quantization_that_is_not_to_be_had_is_refused_before_anything_is_loaded(
    kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)

    with pytest.raises(ConfigError, match=said):
        open_pipeline("builtin:shapes", quantize=kind)


@pytest.mark.parametrize("opened", [open_configured, open_shared])
def test_arguments_that_the_pipeline_does_not_take_are_refused(
    opened: Callable[[PipelineConfig], Any], tiny_folder: Path
) -> None:
    config = PipelineConfig(str(tiny_folder), device="cpu", call={"height": 32, "widths": 32})

    with pytest.raises(
        ConfigError, match=r"call: FluxPipeline takes no 'widths'\. Did you mean 'width'\?"
    ):
        opened(config)


@pytest.mark.parametrize("damage", ["index", "class", "part", "weights", "config"])
def test_a_damaged_pipeline_is_named(damage: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))
    index = folder / "model_index.json"
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    match damage:
        case "index":
            index.write_text("{")
        case "class":
            index.write_text(index.read_text().replace('"FluxPipeline"', '"FluxPipelin"'))
        case "part":
            shutil.rmtree(folder / "vae")
        case "weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "config":
            (folder / "transformer" / "config.json").write_text('{"num_layers": "many"}')

    with pytest.raises(ConfigError, match=r"\[pipeline\] source must be .*damaged"):
        open_pipeline(str(folder), device="cpu")


def test_a_missing_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"received '.*nowhere' \(no such folder here\)"):
        open_pipeline(str(tmp_path / "nowhere"))


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        open_pipeline(str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # torchao registers enumerations that torch knows by now
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_weights_are_another_model(kind: str, tiny_folder: Path) -> None:
    full = open_pipeline(str(tiny_folder), device="cpu")
    quantized = open_pipeline(str(tiny_folder), device="cpu", quantize=kind)

    identities = [model_identity(pipe.transformer) for pipe in (full, quantized)]
    assert identities[0]["weights"] != identities[1]["weights"]
    assert identities[0]["config_sha256"] == identities[1]["config_sha256"]


def test_an_unknown_quantization_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'int8', 'fp8', 'int8-dynamic', received 'int3'"):
        open_pipeline(str(tiny_folder), device="cpu", quantize="int3")
