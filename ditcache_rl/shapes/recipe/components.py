"""The untrained parts of the embedded pipelines: stock classes of toy size."""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ditcache_rl.shapes import GUIDED_SEQUENCE_LENGTH, MAX_SEQUENCE_LENGTH, SIDE_PX
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES

TEXT_WIDTH = 192
LATENT_CHANNELS = 4
LATENT_SIDE = SIDE_PX // 4
_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"


def vocabulary() -> list[str]:
    """List every token: specials, words of every caption, attribute values, words of several."""
    every = ["a", "at", "on", "background"]
    several = ["over", "an", "and"]
    values = (word for words in ATTRIBUTES.values() for word in words)
    return [_PAD, _EOS, _UNKNOWN, *every, *values, *several]


def build_tokenizer(tokens: int = MAX_SEQUENCE_LENGTH) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer that all text encoders use; it appends an end token.

    Args:
        tokens: Length of the longest caption, its end token counted.
    """
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
        model_max_length=tokens,
    )


def build_clip() -> CLIPTextModel:
    """Build the encoder whose pooled output modulates every block."""
    return CLIPTextModel(_clip_config(TEXT_WIDTH, MAX_SEQUENCE_LENGTH))


def build_projected_clip() -> CLIPTextModelWithProjection:
    """Build one of two encoders, which give half of the width of tokens and pooled output each."""
    return CLIPTextModelWithProjection(_clip_config(TEXT_WIDTH // 2, GUIDED_SEQUENCE_LENGTH))


def _clip_config(width: int, tokens: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=tokens,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
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


def build_flux_transformer() -> FluxTransformer2DModel:
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


def build_joint_transformer() -> SD3Transformer2DModel:
    """Build the denoiser with two branches: 6 joint blocks, 64 image and 48 text tokens."""
    patch = 2
    return SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=patch,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIDE // patch,
        qk_norm="rms_norm",
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the sampler; the shift moves steps towards high noise, where the layout is decided."""
    return FlowMatchEulerDiscreteScheduler(shift=1.5)
