from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo.denoisers import build
from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import find_stack, split_spans
from ditcache_rl.instrument.probe import complete_stack
from ditcache_rl.instrument.taps import taps_of


class Pair(nn.Module):
    """A block of two streams that returns the text first."""

    def forward(self, image: Tensor, text: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        return text + 1, image + clock


class Alone(nn.Module):
    """A block of one stream."""

    def forward(self, clock: Tensor, tokens: Tensor) -> Tensor:
        return tokens + clock


class Model(nn.Module):
    """A denoiser whose lists have names that nobody knows; the helpers run apart."""

    def __init__(self, block: type[nn.Module], count: int) -> None:
        super().__init__()
        self.my_blocks = nn.ModuleList(block() for _ in range(count))
        self.helpers = nn.ModuleList([nn.Linear(3, 5)])

    def forward(self, image: Tensor) -> Tensor:
        text, clock = torch.zeros(2, 7, 3), torch.ones(2, 1, 3)
        self.helpers[0](clock)
        for block in self.my_blocks:
            if isinstance(block, Pair):
                text, image = block(image, text, clock)
            else:
                image = block(clock, tokens=image)
        return image


def test_streams_are_those_that_a_block_hands_to_the_next() -> None:
    model = Model(Pair, 3)

    stack = complete_stack(model, find_stack(model), lambda: model(torch.zeros(2, 4, 3))).stack

    assert stack.names == ("my_blocks",)
    assert stack.blocks == tuple(model.my_blocks)
    assert {signature.names for signature in stack.signatures if signature} == {("text", "image")}
    assert {signature.outputs for signature in stack.signatures if signature} == {(0, 1)}


def test_a_single_stream_is_the_argument_of_the_shape_of_the_output() -> None:
    model = Model(Alone, 2)

    stack = complete_stack(model, None, lambda: model(torch.zeros(2, 4, 3))).stack

    assert [signature.names for signature in stack.signatures if signature] == [("tokens",)] * 2
    assert [signature.positions for signature in stack.signatures if signature] == [(1,)] * 2


def test_the_pass_leaves_no_tap_behind() -> None:
    model = Model(Alone, 2)
    complete_stack(model, None, lambda: model(torch.zeros(2, 4, 3)))

    assert not any(taps_of(module) for module in model.modules())


def test_a_model_without_a_chain_is_named_with_what_it_has() -> None:
    model = nn.Sequential(nn.Linear(3, 3))

    with pytest.raises(UnsupportedModelError, match=r"Sequential .* found only 0; name the list"):
        complete_stack(model, None, lambda: model(torch.zeros(2, 3)))


def test_blocks_of_several_lists_come_in_the_order_in_which_they_run() -> None:
    model: Any = build("LatteTransformer3DModel")
    latents, text = torch.zeros(1, 4, 2, 8, 8), torch.zeros(1, 6, 8)

    stack = complete_stack(
        model, find_stack(model), lambda: model(latents, torch.ones(1), encoder_hidden_states=text)
    ).stack

    spatial, temporal = model.transformer_blocks, model.temporal_transformer_blocks
    assert stack.blocks == (spatial[0], temporal[0], spatial[1], temporal[1])


def test_a_u_net_is_one_deep_branch() -> None:
    unet = build("UNet2DConditionModel")
    stack = find_stack(unet)
    assert stack is not None

    (span,) = split_spans(stack, 1)

    assert stack.deep
    assert span.blocks == range(5)
    with pytest.raises(ConfigError, match="deep branch"):
        split_spans(stack, 2)


def test_a_site_is_cut_where_the_number_of_streams_changes() -> None:
    model = build("Flux2Transformer2DModel")
    stack = find_stack(model)
    assert stack is not None

    spans = split_spans(stack, 1)

    assert [(span.site, span.blocks) for span in spans] == [(0, range(0, 2)), (0, range(2, 4))]


def test_a_model_with_long_skips_has_one_site() -> None:
    stack = find_stack(build("HunyuanDiT2DModel"))
    assert stack is not None

    with pytest.raises(ConfigError, match="at most 1 site"):
        split_spans(stack, 2)
