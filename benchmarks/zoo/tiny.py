"""A tiny real FluxPipeline: stock diffusers classes, random weights, a few milliseconds a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from ditcache_rl.shapes import MAX_SEQUENCE_LENGTH, SIDE_PX
from ditcache_rl.shapes.recipe.components import build_scheduler, build_tokenizer, vocabulary

#: Blocks of the tiny transformer: double ones, then single ones.
DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 3
BLOCKS = DOUBLE_BLOCKS + SINGLE_BLOCKS
CALL: dict[str, Any] = {
    "height": SIDE_PX,
    "width": SIDE_PX,
    "max_sequence_length": MAX_SEQUENCE_LENGTH,
}
_WIDTH = 32
_LATENT_CHANNELS = 4


def build_tiny_pipe() -> Any:
    """Build the same pipeline every time: 2 double and 3 single blocks, 64 image tokens."""
    words = len(vocabulary())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words,
                hidden_size=_WIDTH,
                intermediate_size=_WIDTH,
                projection_dim=_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=MAX_SEQUENCE_LENGTH,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=1,
            )
        )
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=words,
                d_model=_WIDTH,
                d_kv=16,
                d_ff=_WIDTH,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
                is_encoder_decoder=False,
                use_cache=False,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=_LATENT_CHANNELS,
            norm_num_groups=4,
            sample_size=SIDE_PX,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.0,
            shift_factor=0.0,
        )
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * _LATENT_CHANNELS,
            num_layers=DOUBLE_BLOCKS,
            num_single_layers=SINGLE_BLOCKS,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_WIDTH,
            pooled_projection_dim=_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        # What starts at zero would switch blocks off, and every cached image would look right.
        for part in (clip, t5, vae, transformer):
            for parameter in part.eval().parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        # At the default scale of a linear layer, prompt and clock would hardly reach the blocks.
        for name, parameter in transformer.named_parameters():
            if ".norm" in name and name.endswith("linear.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    pipe = FluxPipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=clip,
        tokenizer=build_tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=build_tokenizer(),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


#: Two scenes that differ in every word that they can differ in.
PROMPTS = (
    "a small plain red disc at left on a white background",
    "a large striped blue star at right on a black background",
)
#: Enough for a forecast of order 2 and something after it.
STEPS = 6


def draw(
    pipe: Any,
    prompts: str | Sequence[str] = PROMPTS[0],
    *,
    seeds: Sequence[int] = (0,),
    steps: int = STEPS,
    **call: Any,
) -> Tensor:
    """Call a pipeline as it is and return the final latents: (rows, tokens, channels)."""
    latents: Tensor = pipe(
        prompts if isinstance(prompts, str) else list(prompts),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        **{**CALL, **call},
    ).images
    return latents
