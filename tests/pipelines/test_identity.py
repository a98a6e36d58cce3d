import copy
from typing import Any

import pytest
import torch
from torch import nn

from ditcache_rl.errors import ArtifactError
from ditcache_rl.pipelines import check_identity, model_identity, scheduler_identity


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


@pytest.mark.parametrize(
    ("what", "key"),
    [("transformer", "class"), ("transformer", "weights"), ("scheduler", "config_sha256")],
)
def test_the_first_difference_is_named(what: str, key: str, tiny_pipe: Any) -> None:
    expected = {
        "transformer": model_identity(tiny_pipe.transformer),
        "scheduler": scheduler_identity(tiny_pipe.scheduler),
    }
    check_identity(expected["transformer"], expected["scheduler"], tiny_pipe)
    right = expected[what][key]
    expected[what][key] = "wanted"

    with pytest.raises(ArtifactError, match=f"expected {what} {key} wanted, received {right}"):
        check_identity(expected["transformer"], expected["scheduler"], tiny_pipe)
