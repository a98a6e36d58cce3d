import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ditcache_rl.extras.comfyui import NODE_CLASS_MAPPINGS
from ditcache_rl.solver import collapsed_scheduler
from tests.kit.doubles import fitted_schedule


def test_a_node_gives_a_sampler_and_the_noise_levels_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI wraps a function of k-diffusion, and calls it with these noise levels."""
    samplers: Any = ModuleType("comfy.samplers")
    samplers.KSAMPLER = lambda function: function
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    plain, levels = FlowMatchEulerDiscreteScheduler(), np.linspace(1, 0, 13)
    made = collapsed_scheduler(plain, fitted_schedule(12, (0, 2, 5, 9)), levels)
    made.save_pretrained(tmp_path)

    (kind,) = NODE_CLASS_MAPPINGS.values()
    assert list(kind.INPUT_TYPES()["required"]) == ["folder"]
    sample, sigmas = getattr(kind(), kind.FUNCTION)(str(tmp_path))

    assert kind.RETURN_TYPES == ("SAMPLER", "SIGMAS")
    torch.testing.assert_close(sigmas, torch.tensor(levels[[0, 2, 5, 9, 12]]).float())
    found = sample(lambda x, sigma: x / 2, torch.ones(1, 2), sigmas, disable=True)
    assert found.isfinite().all()
