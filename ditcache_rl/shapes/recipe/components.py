"""The untrained parts of the embedded pipeline: stock classes of toy size."""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ditcache_rl.shapes import MAX_SEQUENCE_LENGTH, SIDE_PX
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES

TEXT_WIDTH = 192
LATENT_CHANNELS = 4
_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"


def vocabulary() -> list[str]:
    """List every token: specials, the fixed words of a caption, then the attribute values."""
    fixed = ["a", "at", "on", "background"]
    return [
        _PAD,
        _EOS,
        _UNKNOWN,
        *fixed,
        *(word for values in ATTRIBUTES.values() for word in values),
    ]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer that both text encoders use; it appends an end token."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    backend = Tokenizer(WordLevel(ids, unk_token=_UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, ids[_EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_PAD,
        eos_token=_EOS,
        unk_token=_UNKNOWN,
        model_max_length=MAX_SEQUENCE_LENGTH,
    )


def build_clip() -> CLIPTextModel:
    """Build the encoder whose pooled output modulates every block."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary()),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=MAX_SEQUENCE_LENGTH,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    )


def build_t5() -> T5EncoderModel:
    """Build the encoder whose tokens attend together with the image tokens."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary()),
            d_model=TEXT_WIDTH,
            d_kv=64,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=3,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def build_autoencoder() -> AutoencoderKL:
    """Build the autoencoder: 64 x 64 x 3 pixels to 16 x 16 x 4 latents."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE_PX,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def build_transformer() -> FluxTransformer2DModel:
    """Build the denoiser: 3 double and 6 single blocks, 64 image and 12 text tokens."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the sampler; the shift moves steps towards high noise, where the layout is decided."""
    return FlowMatchEulerDiscreteScheduler(shift=1.5)
