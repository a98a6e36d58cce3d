import copy
from pathlib import Path

import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.control import EveryK
from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import model_identity, open_pipeline
from tests.kit.pipelines import draw

BLOCK = "transformer.single_transformer_blocks.1"


def test_int8_arithmetic_is_near_full_precision_and_leaves_the_norms_alone(
    tiny_folder: Path,
) -> None:
    full = open_pipeline(str(tiny_folder), device="cpu")
    pipe = open_pipeline(str(tiny_folder), device="cpu", quantize="int8-dynamic")

    expected, latents = draw(full), draw(pipe)

    block = pipe.transformer.transformer_blocks[0]
    assert type(block.norm1.linear) is torch.nn.Linear
    assert type(block.attn.to_q) is not torch.nn.Linear
    assert not torch.equal(latents, expected)
    # Eight bits of weights and activations: under a percent each, over five blocks and six steps.
    assert float((latents - expected).norm() / expected.norm()) < 0.1
    assert model_identity(pipe.transformer) != model_identity(full.transformer)


def test_int8_arithmetic_can_be_cached_and_copied(tiny_folder: Path) -> None:
    pipe = open_pipeline(str(tiny_folder), device="cpu", quantize="int8-dynamic")
    plain = draw(pipe)

    with dc.cached(pipe, EveryK(2), blocks="transformer") as run:
        draw(pipe)

    assert run.logs[0].compute_share[0] == 0.5
    assert torch.equal(draw(pipe), plain)
    pipe.transformer = copy.deepcopy(pipe.transformer)
    assert torch.equal(draw(pipe), plain)


def test_int8_arithmetic_needs_full_precision_on_a_cpu(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"received cpu and torch\.bfloat16"):
        open_pipeline(str(tiny_folder), dtype="bfloat16", device="cpu", quantize="int8-dynamic")


def test_a_pruned_block_is_left_out(tiny_folder: Path) -> None:
    full = open_pipeline(str(tiny_folder), device="cpu")
    pipe = open_pipeline(str(tiny_folder), device="cpu", prune=[BLOCK])
    kept = full.transformer.single_transformer_blocks
    full.transformer.single_transformer_blocks = torch.nn.ModuleList([kept[0], kept[2]])

    assert len(pipe.transformer.single_transformer_blocks) == 2
    assert torch.equal(draw(pipe), draw(full))
    with dc.cached(pipe, EveryK(2), sites=4) as run:
        draw(pipe)
    assert run.logs[0].modes.shape[2] == 4


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["transformer.single_transformer_blocks.3"], "blocks has 3 blocks"),
        (["single_transformer_blocks.1"], "in transformer, received 'single_transformer_blocks.1'"),
        (["transformer.x_embedder.0"], "received 'transformer.x_embedder.0'"),
        ([f"transformer.transformer_blocks.{i}" for i in range(2)], "leave a block of every list"),
    ],
)
def test_wrong_blocks_are_refused(paths: list[str], message: str, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_pipeline(str(tiny_folder), device="cpu", prune=paths)
