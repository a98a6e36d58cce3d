from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import find_blocks, is_whole, read_paths, split_sites
from ditcache_rl.instrument.signatures import BlockSignature, known_signature
from tests.kit.pipelines import BLOCKS, DOUBLE_BLOCKS

BOTH = BlockSignature(
    names=("hidden_states", "encoder_hidden_states"),
    positions=(0, 1),
    outputs=(1, 0),
    parameters=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb"),
)
ALONE = BlockSignature(
    names=("hidden_states",),
    positions=(0,),
    outputs=(),
    parameters=("hidden_states", "temb"),
)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2))
def test_sites_are_adjacent_nearly_equal_and_cover_all_but_the_probe(
    blocks: int, sites: int, probe: int
) -> None:
    if sites > blocks - probe:
        with pytest.raises(ConfigError, match="sites must be between 1 and"):
            split_sites(blocks, sites, probe)
        return

    ranges = split_sites(blocks, sites, probe)

    assert len(ranges) == sites
    assert list(chain.from_iterable(ranges)) == list(range(probe, blocks))
    assert all(a.stop == b.start for a, b in pairwise(ranges))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize("sites", [0, -1])
def test_there_is_at_least_one_site(sites: int) -> None:
    with pytest.raises(ConfigError, match=f"received {sites}"):
        split_sites(5, sites)


def test_blocks_are_found_in_the_order_in_which_they_run(tiny_pipe: Any) -> None:
    transformer = tiny_pipe.transformer

    blocks = find_blocks(transformer)

    assert len(blocks) == BLOCKS
    assert blocks[:DOUBLE_BLOCKS] == list(transformer.transformer_blocks)
    assert blocks[DOUBLE_BLOCKS:] == list(transformer.single_transformer_blocks)


@pytest.mark.parametrize(
    ("blocks", "lists", "whole"),
    [
        (None, {}, False),
        ("", {}, False),
        ("transformer", {"transformer": ""}, True),
        ("transformer, transformer_2", {"transformer": "", "transformer_2": ""}, True),
        ("unet, prior.a, prior.b", {"unet": "", "prior": "a,b"}, False),
    ],
)
def test_paths_name_block_lists_or_whole_denoisers(
    blocks: str | None, lists: dict[str, str], whole: bool
) -> None:
    assert read_paths(blocks) == lists
    assert is_whole(blocks) is whole


def test_a_model_without_block_lists_is_named_with_what_it_has() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Sequential .* found only 0, 1"):
        find_blocks(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))


def test_a_block_class_that_nobody_registered_has_no_known_signature() -> None:
    assert known_signature(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("index", [0, DOUBLE_BLOCKS])
def test_flux_blocks_take_and_return_image_and_text_tokens(tiny_pipe: Any, index: int) -> None:
    block = find_blocks(tiny_pipe.transformer)[index]

    assert known_signature(block) == BlockSignature(
        names=("hidden_states", "encoder_hidden_states"),
        positions=(0, 1),
        outputs=(1, 0),
        parameters=(
            "hidden_states",
            "encoder_hidden_states",
            "temb",
            "image_rotary_emb",
            "joint_attention_kwargs",
        ),
    )


@pytest.mark.parametrize("by_name", [0, 1, 2])
def test_streams_are_read_by_position_and_by_name(by_name: int) -> None:
    values = [torch.zeros(2, 3), torch.ones(2, 4)]
    names = BOTH.names[len(values) - by_name :]
    args, kwargs = values[: len(values) - by_name], values[len(values) - by_name :]

    streams = BOTH.read(args, dict(zip(names, kwargs, strict=True)))

    assert [id(stream) for stream in streams] == [id(value) for value in values]


@pytest.mark.parametrize(
    ("signature", "output"),
    [
        (BOTH, (torch.zeros(2, 4), torch.ones(2, 3))),
        (ALONE, torch.ones(2, 3)),
    ],
)
def test_packing_inverts_unpacking(signature: BlockSignature, output: Any) -> None:
    packed = signature.pack(signature.unpack(output))

    flat: Sequence[torch.Tensor] = packed if isinstance(packed, tuple) else (packed,)
    expected = output if isinstance(output, tuple) else (output,)
    assert type(packed) is type(output)
    assert [id(tensor) for tensor in flat] == [id(tensor) for tensor in expected]


def test_image_tokens_come_first_whatever_the_block_returns_first() -> None:
    text, image = torch.zeros(2, 4), torch.ones(2, 3)

    assert BOTH.unpack((text, image))[0] is image


def test_a_call_restricted_to_rows_keeps_what_has_no_rows() -> None:
    hidden, encoder, temb = (torch.arange(12.0).view(3, 4) + k for k in range(3))
    rotary = torch.arange(3.0)[:, None]  # as long as the batch by coincidence
    rows = torch.tensor([2, 0])

    args, kwargs = BOTH.map_rows(
        (hidden,),
        {"encoder_hidden_states": encoder, "temb": temb, "image_rotary_emb": rotary, "flag": True},
        {3},
        lambda tensor: tensor.index_select(0, rows),
        gathered=False,
    )

    assert torch.equal(args[0], hidden[[2, 0]])
    assert torch.equal(kwargs["encoder_hidden_states"], encoder[[2, 0]])
    assert torch.equal(kwargs["temb"], temb[[2, 0]])
    assert kwargs["image_rotary_emb"] is rotary
    assert kwargs["flag"] is True


def test_streams_that_hold_only_the_rows_already_are_left_alone() -> None:
    gathered, temb = torch.zeros(3, 4), torch.arange(12.0).view(3, 4)

    args, kwargs = ALONE.map_rows(
        (gathered,), {"temb": temb}, {3}, lambda tensor: tensor[[0, 1, 2]], gathered=True
    )

    assert args[0] is gathered
    assert torch.equal(kwargs["temb"], temb)
