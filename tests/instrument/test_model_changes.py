"""An entry is served only to the model that made it, within a request too."""

import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EasyCache, EveryK, FBCache, StaticSchedule
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.fingerprint import ModelWatch
from ditcache_rl.types import Mode
from tests.instrument.test_fingerprint import (
    OtherProcessor,
    edit_data,
    edit_in_place,
    load_state,
    replace_data,
)
from tests.instrument.test_shapes import network
from tests.instrument.test_stack import (
    group_offload,
    layerwise_casting,
    model_offload,
    sequential_offload,
)
from tests.kit.pipelines import BLOCKS, GUIDANCE, STEPS, build_tiny_pipe, draw

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, of several adapters in one model
#: The model changes after this step.
LAST = 2


def adapted() -> Any:
    """Build the pipeline with an adapter."""
    from peft import LoraConfig

    pipe = build_tiny_pipe()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name in ("one", "two"):
            config = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
            pipe.transformer.add_adapter(config, adapter_name=name)
    pipe.transformer.set_adapter("one")
    return pipe


def scale_adapter(pipe: Any) -> None:
    pipe.transformer.set_adapters("one", weights=0.2)


def switch_adapter(pipe: Any) -> None:
    pipe.transformer.set_adapter("two")


def disable_adapters(pipe: Any) -> None:
    pipe.transformer.disable_adapters()


def delete_adapters(pipe: Any) -> None:
    pipe.transformer.delete_adapters("one")


def fuse_adapter(pipe: Any) -> None:
    pipe.transformer.fuse_lora(lora_scale=3.0)


def add_adapter(pipe: Any) -> None:
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name="three")


def replace_parameter(pipe: Any) -> None:
    value = pipe.transformer.transformer_blocks[0].attn.to_v
    value.weight = nn.Parameter(2 * value.weight)


def other_processor(pipe: Any) -> None:
    class Louder(OtherProcessor):
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            found = plain(attn, hidden_states, *args, **kwargs)
            return tuple(2 * each for each in found) if isinstance(found, tuple) else 2 * found

    attention = pipe.transformer.transformer_blocks[0].attn
    plain = attention.processor
    attention.processor = Louder()


ADAPTERS = [scale_adapter, switch_adapter, disable_adapters, fuse_adapter, delete_adapters]
WEIGHTS = [edit_in_place, edit_data, load_state, replace_data, replace_parameter]
CHANGES: list[Callable[[Any], None]] = [*ADAPTERS, *WEIGHTS, add_adapter, other_processor]


def at_step(change: Callable[[Any], None], step: int = LAST) -> Callable[..., Any]:
    def callback(pipe: Any, now: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if now == step:
            change(pipe)
        return tensors

    return callback


def play(
    pipe: Any, controller: Controller, *, blocks: str | None = None, sites: int = 1, **call: Any
) -> tuple[Tensor, RequestLog]:
    logs, cache = list[RequestLog](), TieredCache()
    with BlockRunner(pipe, controller, cache, blocks=blocks, sites=sites, on_finish=logs.append):
        latents = draw(pipe, **call)
    assert cache.used_bytes == 0
    return latents, logs[0]


def schedule(*modes: int, sites: int = 1) -> StaticSchedule:
    return StaticSchedule.of(np.repeat(np.array(modes, dtype=np.int8)[:, None], sites, axis=1))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_entry_is_served_only_to_the_model_that_made_it(change: Callable[[Any], None]) -> None:
    callback = at_step(change)
    expected, _ = play(adapted(), schedule(0, 1, 1, 0, 1, 1), callback_on_step_end=callback)

    latents, log = play(adapted(), schedule(0, 1, 1, 1, 1, 1), callback_on_step_end=at_step(change))

    assert log.modes[:, 0, 0].tolist() == [0, 1, 1, 0, 1, 1]
    assert torch.equal(latents, expected)


@pytest.mark.parametrize("call", [{}, GUIDANCE], ids=["alone", "guided"])
@pytest.mark.parametrize(
    ("kind", "blocks", "sites"),
    [("EveryK", None, BLOCKS), ("EveryK", "transformer", 1), ("network", None, 1)]
    + [(kind, None, 1) for kind in ("FBCache", "EasyCache")],
)
def test_whoever_decides_computes_after_a_change(
    kind: str, blocks: str | None, sites: int, call: dict[str, Any]
) -> None:
    make: dict[str, Callable[[], Controller]] = {
        "EveryK": lambda: EveryK(STEPS),
        "FBCache": lambda: FBCache(1e6),
        "EasyCache": lambda: EasyCache(1e6, start=0.0, end=1.0),
        "network": lambda: network(),
    }
    callback = at_step(scale_adapter)

    latents, log = play(
        adapted(), make[kind](), blocks=blocks, sites=sites, callback_on_step_end=callback, **call
    )

    followed = log.modes[:, 0, 0].tolist()
    assert (log.modes[LAST + 1] == Mode.COMPUTE).all()
    again = schedule(*followed, sites=sites)
    callback = at_step(scale_adapter)
    expected, _ = play(
        adapted(), again, blocks=blocks, sites=sites, callback_on_step_end=callback, **call
    )
    if kind != "FBCache":  # its first block is computed, and is no part of the site
        assert torch.equal(latents, expected)


@pytest.mark.parametrize("change", [scale_adapter, switch_adapter, edit_in_place, add_adapter])
def test_a_change_that_no_callback_made_is_seen_too(change: Callable[[Any], None]) -> None:
    """As of a thread, or of another pipeline that shares the model."""
    pipe, seen = adapted(), [0]
    step = pipe.scheduler.step

    def stepping(*args: Any, **kwargs: Any) -> Any:
        if seen[0] == LAST:
            thread = threading.Thread(target=change, args=(pipe,))
            thread.start()
            thread.join()
        seen[0] += 1
        return step(*args, **kwargs)

    pipe.scheduler.step = stepping

    _, log = play(pipe, EveryK(STEPS))

    assert log.modes[:, 0, 0].tolist() == [0, 1, 1, 0, 1, 1]


def test_a_change_is_said_once_and_the_next_request_has_its_cache(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe, cache, logs = adapted(), TieredCache(), list[RequestLog]()

    with BlockRunner(pipe, EveryK(2), cache, on_finish=logs.append):
        draw(pipe, callback_on_step_end=at_step(scale_adapter))
        draw(pipe)

    assert cache.stats.emptied == 1
    assert caplog.text.count("the model changed during a request") == 1
    assert logs[1].modes[:, 0, 0].tolist() == [0, 1] * 3


def test_a_callback_that_changes_nothing_changes_nothing() -> None:
    pipe = adapted()
    plain, _ = play(pipe, EveryK(2))

    latents, log = play(pipe, EveryK(2), callback_on_step_end=at_step(lambda pipe: None))

    assert torch.equal(latents, plain)
    assert log.modes[:, 0, 0].tolist() == [0, 1] * 3


def test_a_scale_that_holds_within_a_call_of_the_denoiser_is_no_change() -> None:
    pipe = adapted()
    for module in pipe.transformer.modules():
        if hasattr(module, "scaling"):
            module.scaling["one"] = 0.1  # times 3 and by 3 again is another number
    attention: dict[str, Any] = {"joint_attention_kwargs": {"scale": 3.0}}

    _, log = play(pipe, EveryK(2), **attention)

    assert log.modes[:, 0, 0].tolist() == [0, 1] * 3


def test_steps_that_serve_and_keep_nothing_look_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    glances = Mock(wraps=ModelWatch.as_before)
    monkeypatch.setattr(ModelWatch, "as_before", lambda watch, **how: glances(watch, **how))

    play(adapted(), AllCompute())
    assert glances.call_count == 0

    play(adapted(), schedule(0, 0, 0, 1, 0, 0), callback_on_step_end=at_step(scale_adapter, 0))
    assert glances.call_count == 2  # what step 2 keeps step 3 reads


@pytest.mark.parametrize("callback", [False, True])
@pytest.mark.parametrize(
    "work", [model_offload, sequential_offload, group_offload, layerwise_casting]
)
def test_weights_that_come_and_go_with_every_call_are_no_change(
    work: Callable[[Any], None], callback: bool
) -> None:
    pipe = build_tiny_pipe()
    work(pipe)
    call: dict[str, Any] = {"callback_on_step_end": at_step(lambda pipe: None)} if callback else {}

    _, log = play(pipe, EveryK(2), **call)

    assert log.modes[:, 0, 0].tolist() == [0, 1] * 3
