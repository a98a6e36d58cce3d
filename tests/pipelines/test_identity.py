import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ditcache_rl.config import PipelineConfig
from ditcache_rl.errors import ArtifactError
from ditcache_rl.pipelines import (
    check_identity,
    model_identity,
    open_matching,
    open_pipeline,
    open_scheduler,
    scheduler_identity,
)
from ditcache_rl.pipelines import identity as module
from ditcache_rl.pipelines.identity import config_digest
from ditcache_rl.pipelines.look import empty_denoiser
from ditcache_rl.pipelines.open import BUILTIN
from ditcache_rl.policy import Manifest
from tests.kit.environment import untrained_policy
from tests.kit.unet import save_unet_pipe


@pytest.fixture
def transformer(tiny_pipe: Any) -> nn.Module:
    """A copy with weights as they are stored: in half precision."""
    half: nn.Module = copy.deepcopy(tiny_pipe.transformer).half()
    return half.float()


def test_the_precision_of_loading_does_not_matter(transformer: nn.Module) -> None:
    identity = model_identity(transformer)

    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert model_identity(copy.deepcopy(transformer).to(dtype)) == identity


def test_a_changed_tensor_changes_the_fingerprint_and_nothing_else(transformer: nn.Module) -> None:
    identity = model_identity(transformer)
    seen = {identity["weights"]}
    names = [name for name, _ in transformer.named_parameters()]

    for name in names[:: len(names) // 12]:
        changed = copy.deepcopy(transformer)
        with torch.no_grad():
            changed.get_parameter(name).mul_(1.02)
        found = model_identity(changed)
        assert found | {"weights": ""} == identity | {"weights": ""}
        seen.add(found["weights"])

    assert len(seen) > 12


def test_noise_below_the_precision_changes_nothing(transformer: nn.Module) -> None:
    coarse = copy.deepcopy(transformer).to(torch.bfloat16).float()
    identity = model_identity(coarse)
    with torch.no_grad():
        for parameter in coarse.parameters():
            parameter.mul_(1 + 1e-5)

    assert model_identity(coarse) == identity


def test_a_scheduler_is_its_class_and_its_settings(tiny_pipe: Any) -> None:
    scheduler = tiny_pipe.scheduler
    same = type(scheduler).from_config(scheduler.config)
    other = type(scheduler).from_config(scheduler.config, shift=2.5)
    same.set_timesteps(7)  # state is not identity

    assert scheduler_identity(same) == scheduler_identity(scheduler)
    assert scheduler_identity(other)["class"] == scheduler_identity(scheduler)["class"]
    assert scheduler_identity(other) != scheduler_identity(scheduler)


@pytest.fixture
def manifest(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Manifest:
    return untrained_policy(tiny_pipe, tiny_call).manifest


@pytest.mark.parametrize(
    ("part", "key", "what"),
    [
        ("model", "class", "transformer"),
        ("model", "weights", "transformer"),
        ("scheduler", "config_sha256", "scheduler"),
    ],
)
def test_the_first_difference_is_named(
    part: str, key: str, what: str, manifest: Manifest, tiny_pipe: Any
) -> None:
    check_identity(manifest, tiny_pipe)
    expected: dict[str, str] = getattr(manifest, part)
    right, expected[key] = expected[key], "wanted"

    with pytest.raises(ArtifactError, match=f"expected {what} {key} wanted, received {right}"):
        check_identity(manifest, tiny_pipe)


def test_other_weights_of_the_same_configs_are_told_from_another_model(
    manifest: Manifest, tiny_pipe: Any
) -> None:
    manifest.model["weights"] = "others"

    check_identity(manifest, tiny_pipe, weights=False)
    manifest.model["config_sha256"] = "another"
    with pytest.raises(ArtifactError, match="expected transformer config_sha256 another"):
        check_identity(manifest, tiny_pipe, weights=False)


@pytest.mark.parametrize("part", ["model", "scheduler"])
def test_a_pipeline_of_other_configs_is_refused_before_its_weights_are_read(
    part: str, manifest: Manifest, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PipelineConfig(str(tiny_folder), device="cpu")
    open_matching(source, manifest)
    getattr(manifest, part)["config_sha256"] = "another"
    monkeypatch.setattr(module, "open_configured", None)

    with pytest.raises(ArtifactError, match=f"config_sha256 another, received .* {tiny_folder}"):
        open_matching(source, manifest)


def test_configs_tell_what_the_opened_pipeline_does(tiny_folder: Path, tmp_path: Path) -> None:
    for source in (BUILTIN, str(tiny_folder), str(save_unet_pipe(tmp_path))):
        pipe = open_pipeline(source, device="cpu")
        name, empty = empty_denoiser(source)
        denoiser: Any = empty

        assert config_digest(denoiser.config) == config_digest(getattr(pipe, name).config)
        assert scheduler_identity(open_scheduler(source)) == scheduler_identity(pipe.scheduler)
