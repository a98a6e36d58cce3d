"""Caching beside what else is done to a transformer: the same image, and everything restored."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.zoo.pipelines import build, pipeline_unit
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, EveryK
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.pipelines.compress import quantize_weights
from tests.kit.pipelines import build_tiny_pipe, draw, draw_under

CPU = torch.device("cpu")


def model_offload(pipe: Any) -> None:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(pipe.transformer, execution_device=CPU)


def sequential_offload(pipe: Any) -> None:
    from accelerate import cpu_offload

    cpu_offload(pipe.transformer, execution_device=CPU)


def group_offload(pipe: Any) -> None:
    pipe.transformer.enable_group_offload(
        onload_device=CPU,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
    )


def native_attention(pipe: Any) -> None:
    pipe.transformer.set_attention_backend("native")


SAME_NUMBERS = [model_offload, sequential_offload, group_offload, native_attention]


def half_weights(pipe: Any) -> None:
    pipe.transformer.to(torch.bfloat16)
    pipe.text_encoder.to(torch.bfloat16)
    pipe.text_encoder_2.to(torch.bfloat16)


def layerwise_casting(pipe: Any) -> None:
    pipe.transformer.enable_layerwise_casting(
        storage_dtype=torch.bfloat16, compute_dtype=torch.float32
    )


def lora(pipe: Any) -> None:
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe.transformer.add_adapter(
            LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", SAME_NUMBERS)
@pytest.mark.parametrize("attached_first", [False, True])
def test_what_changes_no_number_changes_no_cached_image(
    tiny_pipe: Any, change: Callable[[Any], None], attached_first: bool
) -> None:
    expected, _ = draw_under(tiny_pipe, EveryK(2, order=1), sites=2)
    pipe = build_tiny_pipe()

    if attached_first:
        with BlockRunner(pipe, EveryK(2, order=1), TieredCache(), sites=2):
            draw(pipe)
            change(pipe)
            drawn = draw(pipe)
    else:
        change(pipe)
        drawn, _ = draw_under(pipe, EveryK(2, order=1), sites=2)

    assert torch.equal(drawn, expected)
    assert torch.equal(draw(pipe), draw(tiny_pipe))


def int8_weights(pipe: Any) -> None:
    quantize_weights(pipe.transformer, "int8")


def fp8_weights(pipe: Any) -> None:
    quantize_weights(pipe.transformer, "fp8")


def bitsandbytes_int8(pipe: Any) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="a large wheel, not among the pins")
    _swap_linears(pipe.transformer, bnb.nn.Linear8bitLt, has_fp16_weights=False)


def bitsandbytes_nf4(pipe: Any) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="a large wheel, not among the pins")
    _swap_linears(
        pipe.transformer, bnb.nn.Linear4bit, quant_type="nf4", compute_dtype=torch.float32
    )


def _swap_linears(module: nn.Module, kind: Any, **options: Any) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            sizes = child.in_features, child.out_features
            swapped = kind(*sizes, bias=child.bias is not None, **options)
            swapped.load_state_dict(child.state_dict())
            setattr(module, name, swapped.to(CPU))
        else:
            _swap_linears(child, kind, **options)


NEW_NUMBERS = [
    half_weights,
    layerwise_casting,
    lora,
    int8_weights,
    fp8_weights,
    bitsandbytes_int8,
    bitsandbytes_nf4,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", NEW_NUMBERS)
def test_what_changes_numbers_is_cached_as_it_is(change: Callable[[Any], None]) -> None:
    pipe = build_tiny_pipe()
    before = draw(pipe)
    change(pipe)
    plain = draw(pipe)

    computed, _ = draw_under(pipe, AllCompute(), sites=2)
    cached, _ = draw_under(pipe, EveryK(2), sites=2)

    assert not torch.equal(plain, before)
    assert torch.equal(computed, plain)
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, plain)
    assert cached.dtype == plain.dtype
    assert torch.equal(draw(pipe), plain)


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
def test_a_unet_with_channels_last_is_cached_as_it_is() -> None:
    pipe = build("StableDiffusionPipeline")
    draw_ldm = pipeline_unit("StableDiffusionPipeline", pipe).draw
    with BlockRunner(pipe, EveryK(2), TieredCache()):
        expected = draw_ldm([1, 2], False)
    pipe.unet.to(memory_format=torch.channels_last)
    plain = draw_ldm([1, 2], False)

    with BlockRunner(pipe, AllCompute(), TieredCache()):
        computed = draw_ldm([1, 2], False)
    with BlockRunner(pipe, EveryK(2), TieredCache()):
        cached = draw_ldm([1, 2], False)

    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(computed, plain)
    # Convolutions sum in another order; latents go up to 30.
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-3)
    assert not torch.equal(cached, plain)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_autocast_is_cached_in_the_precision_of_the_streams(tiny_pipe: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        plain = draw(tiny_pipe)
        computed, _ = draw_under(tiny_pipe, AllCompute())
        cached, _ = draw_under(tiny_pipe, EveryK(2, order=1))

    assert torch.equal(computed, plain)
    assert torch.isfinite(cached).all()


@pytest.mark.filterwarnings("ignore")
def test_a_lora_may_be_fused_and_unloaded_while_attached() -> None:
    pipe = build_tiny_pipe()
    expected, _ = draw_under(pipe, EveryK(2))

    with BlockRunner(pipe, EveryK(2), TieredCache()):
        lora(pipe)
        changed = draw(pipe)
        pipe.transformer.fuse_lora()
        fused = draw(pipe)
        pipe.transformer.unfuse_lora()
        pipe.transformer.unload_lora()
        after = draw(pipe)

    assert not torch.equal(changed, expected)
    torch.testing.assert_close(fused, changed, rtol=1e-4, atol=1e-4)
    # Unfusing subtracts what fusing added, up to rounding.
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_stay_compiled_and_nothing_is_compiled_twice() -> None:
    pipe = build_tiny_pipe()
    eager, _ = draw_under(pipe, EveryK(2, order=1), sites=2)
    torch._dynamo.reset()
    pipe.transformer.compile_repeated_blocks(dynamic=False, backend="aot_eager")
    draw(pipe)
    graphs = dict(torch._dynamo.utils.counters["stats"])
    breaks = dict(torch._dynamo.utils.counters["graph_break"])

    cached, _ = draw_under(pipe, EveryK(2, order=1), sites=2)

    assert dict(torch._dynamo.utils.counters["stats"]) == graphs
    assert dict(torch._dynamo.utils.counters["graph_break"]) == breaks
    torch.testing.assert_close(cached, eager, rtol=1e-4, atol=1e-4)
