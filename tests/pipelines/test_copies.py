from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

import ditcache_rl as dc
from ditcache_rl.config import PipelineConfig
from ditcache_rl.control import EveryK
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.inference import session
from ditcache_rl.instrument import is_attached
from ditcache_rl.pipelines import open_shared, twin
from tests.kit.pipelines import draw


def pointers(pipe: Any) -> list[int]:
    return [parameter.data_ptr() for parameter in pipe.transformer.parameters()]


def test_a_copy_takes_no_weights_of_its_own(tiny_pipe: Any) -> None:
    assert pointers(session(tiny_pipe)) == pointers(twin(tiny_pipe)) == pointers(tiny_pipe)


def test_a_session_runs_under_the_policy_of_the_original_and_a_twin_does_not(
    tiny_pipe: Any,
) -> None:
    apart = twin(tiny_pipe)

    with dc.cached(tiny_pipe, EveryK(2)):
        assert is_attached(session(tiny_pipe))
        assert not is_attached(apart)
        assert "forward" not in vars(apart.transformer)


def test_what_is_put_over_a_step_acts_on_the_original_alone(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(tiny_pipe, steps=4)
    scheduler, seen = tiny_pipe.scheduler, list[Any]()
    plain = scheduler.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(scheduler)
        return plain(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "step", watched)
        assert torch.equal(draw(session(tiny_pipe), steps=4), expected)
    assert not seen

    def bound(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self)
        return type(self).step(self, *args, **kwargs)

    monkeypatch.setattr(scheduler, "step", MethodType(bound, scheduler))
    apart = session(tiny_pipe)
    assert torch.equal(draw(apart, steps=4), expected)
    assert {id(one) for one in seen} == {id(apart.scheduler)}


def test_the_same_pipeline_is_opened_once(tiny_folder: Path) -> None:
    config = PipelineConfig(str(tiny_folder), device="cpu")

    assert open_shared(config) is open_shared(config)


@pytest.mark.parametrize("thing", [None, "a pipeline", FluxPipeline])
def test_what_is_no_pipeline_has_no_session(thing: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="expected a diffusers pipeline"):
        session(thing)
