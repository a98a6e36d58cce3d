"""A rule that was trained on nothing runs on any pipeline, and says what it does not know."""

from typing import Any

import pytest
import torch

import ditcache_rl as dc
from benchmarks.zoo.pipelines import PIPELINES, build, pipeline_unit
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Mode
from tests.kit.pipelines import draw

FAMILIES = (
    "FluxPipeline",
    "StableDiffusion3Pipeline",
    "PixArtSigmaPipeline",
    "QwenImagePipeline",
    "StableDiffusionXLPipeline",
    "WanPipeline",
)


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize("name", FAMILIES)
def test_any_pipeline_runs_in_half_of_its_computes_without_a_policy(name: str) -> None:
    assert name in PIPELINES
    unit = pipeline_unit(name, build(name))
    plain = unit.draw([1], False)

    with dc.cached(unit.pipe, "newton", speedup=2) as run:
        cached = unit.draw([1], False)

    (log,) = run.logs
    assert log.modes[0].max() == Mode.COMPUTE
    assert log.compute_share[0] == 0.5
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, plain)
    assert torch.equal(unit.draw([1], False), plain)


def test_the_rule_keeps_a_budget_of_sites_exactly(tiny_pipe: Any) -> None:
    with dc.cached(tiny_pipe, "newton", budget=0.4, sites=5) as run:
        draw(tiny_pipe, steps=6)

    assert run.logs[0].run.sites == 5
    assert run.logs[0].compute_share[0] == 12 / 30


@pytest.mark.parametrize(
    ("target", "received"),
    [
        ({"min_psnr": 30.0}, "min_psnr=30.0"),
        ({"latency_s": 1.0}, "latency_s=1.0"),
        ({"speedup": 2.0, "budget": 0.5}, "speedup=2.0, budget=0.5"),
    ],
)
def test_what_only_a_policy_knows_is_refused_with_the_way_to_one(
    target: dict[str, Any], received: str, tiny_pipe: Any
) -> None:
    with pytest.raises(ConfigError, match=f"received {received}; train a policy .* init PIPELINE"):
        dc.attach(tiny_pipe, "newton", **target)


@pytest.mark.parametrize("target", [{"speedup": 0.5}, {"budget": 0.0}, {"budget": 1.5}])
def test_a_target_that_is_none_is_refused(target: dict[str, Any], tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match="must"):
        dc.attach(tiny_pipe, "newton", **target)
