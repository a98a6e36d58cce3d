from pathlib import Path

import pytest
import torch

from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import model_identity, open_pipeline


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_is_opened_in_the_precision_asked_for(dtype: str, tiny_folder: Path) -> None:
    pipe = open_pipeline(str(tiny_folder), dtype=dtype, device="cpu")

    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {getattr(torch, dtype)}


@pytest.mark.parametrize("dtype", ["float", "int8", "Tensor", "nonsense"])
def test_what_is_no_precision_of_weights_is_refused(dtype: str, tiny_folder: Path) -> None:
    if dtype == "float":  # torch's other name of float32
        assert open_pipeline(str(tiny_folder), dtype=dtype, device="cpu").dtype == torch.float32
        return
    with pytest.raises(
        ConfigError, match=f"must name a torch dtype as 'float32', received '{dtype}'"
    ):
        open_pipeline(str(tiny_folder), dtype=dtype)


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
