from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from benchmarks.zoo.loop import DenoiserLoop
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import EveryK
from ditcache_rl.inference import session
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.fingerprint import ModelWatch, changed_parts
from tests.kit.pipelines import build_tiny_pipe, draw, draw_under


def weight(pipe: Any) -> nn.Parameter:
    found: nn.Parameter = pipe.transformer.transformer_blocks[1].attn.to_k.weight
    return found


class Lora(nn.Module):
    """A layer with an adapter, with the attributes of peft's."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.scaling = {"one": 1.0}
        self._active_adapter = ["one"]
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return y


class OtherProcessor:
    """Another way to attend."""


def load_state(pipe: Any) -> None:
    pipe.transformer.load_state_dict(
        {k: v * 1.01 for k, v in pipe.transformer.state_dict().items()}
    )


def edit_in_place(pipe: Any) -> None:
    with torch.no_grad():
        weight(pipe).mul_(1.01)


def edit_data(pipe: Any) -> None:
    weight(pipe).data.add_(0.01)


def replace_data(pipe: Any) -> None:
    weight(pipe).data = weight(pipe).data.clone()


def replace_parameter(pipe: Any) -> None:
    pipe.transformer.transformer_blocks[0].attn.to_k.weight = nn.Parameter(weight(pipe) * 2)


def change_dtype(pipe: Any) -> None:
    pipe.transformer.to(torch.bfloat16)


def add_adapter(pipe: Any) -> None:
    attention = pipe.transformer.transformer_blocks[0].attn
    attention.to_q = Lora(attention.to_q)


def scale_adapter(pipe: Any) -> None:
    next(m for m in pipe.transformer.modules() if isinstance(m, Lora)).scaling["one"] = 0.5


def disable_adapter(pipe: Any) -> None:
    next(m for m in pipe.transformer.modules() if isinstance(m, Lora))._disable_adapters = True


def fuse_adapter(pipe: Any) -> None:
    next(m for m in pipe.transformer.modules() if isinstance(m, Lora)).merged_adapters.append("one")


def swap_processor(pipe: Any) -> None:
    pipe.transformer.transformer_blocks[0].attn.processor = OtherProcessor()


def set_for_the_first_time(pipe: Any) -> None:
    layer: Any = next(m for m in pipe.transformer.modules() if isinstance(m, nn.Linear))
    layer.scaling = 0.5


def scale_processor(pipe: Any) -> None:
    pipe.transformer.transformer_blocks[0].attn.processor.scale = 0.5


def compile_block(pipe: Any) -> None:
    pipe.transformer.transformer_blocks[0].compile()


MUTATIONS: list[Callable[[Any], None]] = [
    load_state,
    edit_in_place,
    edit_data,
    replace_data,
    replace_parameter,
    change_dtype,
    add_adapter,
    scale_adapter,
    disable_adapter,
    fuse_adapter,
    swap_processor,
    set_for_the_first_time,
    scale_processor,
    compile_block,
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A pipeline to be mutated, one mutation on top of the other."""
    return build_tiny_pipe()


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_changed_model_is_noticed(pipe: Any, mutate: Callable[[Any], None]) -> None:
    watch = ModelWatch(pipe.transformer)
    assert watch.changes() == ""  # the first look
    assert watch.changes() == ""

    mutate(pipe)

    assert watch.changes()
    assert watch.changes() == ""


def test_wrapped_weights_are_watched_part_by_part() -> None:
    layer = nn.Linear(4, 4)
    pair = TwoTensor(torch.ones(4, 4), torch.ones(4, 4))  # type: ignore[no-untyped-call]
    layer.weight = nn.Parameter(pair)
    watch = ModelWatch(layer)
    before = watch.look()
    assert changed_parts(before, watch.look()) == ""

    pair.b.data.add_(1)

    assert changed_parts(before, watch.look()) == "weights"


def test_weights_with_channels_last_are_watched() -> None:
    convolution = nn.Conv2d(3, 5, 3)
    weight = convolution.weight.contiguous(memory_format=torch.channels_last)
    convolution.weight = nn.Parameter(weight)
    watch = ModelWatch(convolution)
    before = watch.look()

    convolution.weight.data.add_(1)

    assert changed_parts(before, watch.look()) == "weights"


def test_calls_and_attaching_change_nothing(tiny_pipe: Any) -> None:
    cache = TieredCache()
    with BlockRunner(tiny_pipe, EveryK(2), cache, sites=3):
        for _ in range(2):
            draw(tiny_pipe)

    assert cache.stats.emptied == 0


def test_blocks_that_are_found_in_the_first_request_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, cache = DenoiserLoop("ZImageTransformer2DModel"), TieredCache()
    looks = Mock(wraps=ModelWatch.look)
    monkeypatch.setattr(ModelWatch, "look", lambda watch: looks(watch))

    with BlockRunner(loop, EveryK(2), cache) as runner:
        assert not runner.layouts[0].roles
        loop(seeds=[0], size=8, num_inference_steps=3)
        assert runner.layouts[0].roles

    assert cache.stats.emptied == 0
    assert looks.call_count == 1, "a tap is no change of the model"


@pytest.mark.parametrize("moment", ["between", "during"])
def test_a_change_empties_the_cache_and_is_said(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipe, cache = build_tiny_pipe(), TieredCache()

    def edit(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            edit_data(pipe)
        return tensors

    with BlockRunner(pipe, EveryK(2), cache):
        draw(pipe, callback_on_step_end=edit if moment == "during" else None)
        if moment == "between":
            edit_in_place(pipe)
        draw(pipe)

    assert cache.stats.emptied == 1
    assert "the model changed" in caplog.text
    assert "weights" in caplog.text


def test_sessions_with_schedulers_of_their_own_leave_each_others_entries_alone() -> None:
    def other() -> Any:
        own = session(pipe)
        own.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=3.0)
        return own

    def meanwhile(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(draw, other()).result())
        return tensors

    pipe, cache = build_tiny_pipe(), TieredCache()
    expected = [draw_under(it, EveryK(2))[0] for it in (other(), pipe)]
    found: list[torch.Tensor] = []

    with BlockRunner(pipe, EveryK(2), cache):
        found.append(draw(session(pipe), callback_on_step_end=meanwhile))

    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert cache.stats.emptied == 0


def test_buffers_that_a_model_makes_itself_are_no_change() -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("angles", torch.ones(2), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.angles = torch.ones(2)
            turned: torch.Tensor = self.linear(x) * self.angles
            return turned

    model = Turning()
    watch = ModelWatch(model)
    assert watch.changes() == ""
    model(torch.ones(1, 2))

    assert watch.as_before(closely=True)
    assert watch.changes() == ""
    with torch.no_grad():
        model.linear.weight.mul_(2.0)
    assert watch.changes() == "weights"
