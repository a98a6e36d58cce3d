"""Formats in which slower tiers may store an entry; all but `none` lose precision.

Each is a pair of pure functions between a floating-point tensor and bytes. `error` is the relative
L2 error on normally distributed values, rounded up, and a test holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.machine import synchronize

#: Values that share a scale: short enough that one outlier spoils few, and 3 % more bytes.
_GROUP = 128
_INT8_MAX = 127


class Codec(NamedTuple):
    """How bytes are made of a tensor, and a tensor of bytes."""

    name: str
    encode: Callable[[Tensor], Tensor]
    """Any float tensor to a contiguous one, of the bytes to be stored, on the same device."""
    decode: Callable[[Tensor, torch.Size, torch.dtype], Tensor]
    """The inverse, up to `error`: to a shape and a dtype."""
    error: float

    def pack(self, tensor: Tensor) -> tuple[Tensor, Original | None]:
        """Return what is stored of an entry, and what that stands for; None for itself."""
        if self.name == "none" or not tensor.is_floating_point():
            return plain(tensor), None
        return self.encode(tensor), Original(self.name, tensor.shape, tensor.dtype)


class Original(NamedTuple):
    """What an encoded payload stands for."""

    codec: str
    shape: torch.Size
    dtype: torch.dtype

    def restored(self, payload: Tensor) -> Tensor:
        """Return the entry, up to the error of its codec."""
        return CODECS[self.codec].decode(payload, self.shape, self.dtype)


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, copying only what is not contiguous."""
    if tensor.requires_grad or not tensor.is_contiguous():
        return tensor.detach().contiguous()
    return tensor


def to_bytes(tensor: Tensor) -> Tensor:
    """View any tensor as (n,) uint8, copying only what is not contiguous."""
    return plain(tensor).view(-1).view(torch.uint8)


def _cast(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: plain(tensor.to(dtype))


def _encode_scaled_fp8(tensor: Tensor) -> Tensor:
    """One scale for all: e4m3 covers so many magnitudes that groups gain nothing."""
    largest = tensor.abs().amax().float() if tensor.numel() else tensor.new_ones(()).float()
    scale = (largest / torch.finfo(torch.float8_e4m3fn).max).clamp_min(torch.finfo().tiny)
    stored = (tensor.float() / scale).to(torch.float8_e4m3fn)
    return torch.cat([to_bytes(scale), to_bytes(stored)])


def _decode_scaled_fp8(payload: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    scale = payload[:4].view(torch.float32)
    stored = payload[4:].view(torch.float8_e4m3fn).float()
    return (stored * scale).to(dtype).view(shape)


def _groups(count: int) -> int:
    return -(-count // _GROUP)


def _encode_int8(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1).float()
    padded = torch.nn.functional.pad(flat, (0, _groups(len(flat)) * _GROUP - len(flat)))
    grouped = padded.view(-1, _GROUP)
    scales = grouped.abs().amax(dim=1, keepdim=True) / _INT8_MAX
    stored = (grouped / scales.clamp_min(torch.finfo().tiny)).round().to(torch.int8)
    return torch.cat([to_bytes(scales), to_bytes(stored)[: len(flat)]])


def _decode_int8(payload: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    count = shape.numel()
    head = 4 * _groups(count)
    scales = payload[:head].view(torch.float32)
    stored = payload[head:].view(torch.int8).float()
    padded = torch.nn.functional.pad(stored, (0, _groups(count) * _GROUP - count))
    values = (padded.view(-1, _GROUP) * scales[:, None]).view(-1)[:count]
    return values.to(dtype).view(shape)


CODECS = {
    codec.name: codec
    for codec in (
        Codec("none", plain, lambda payload, _, __: payload, 0.0),
        Codec("bf16", _cast(torch.bfloat16), lambda payload, _, dtype: payload.to(dtype), 0.002),
        Codec("fp8", _encode_scaled_fp8, _decode_scaled_fp8, 0.03),
        Codec("int8", _encode_int8, _decode_int8, 0.008),
    )
}
LOSSLESS = CODECS["none"]


def find_codec(name: str) -> Codec:
    """Return a codec by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in CODECS:
        hint = closest(str(name), CODECS)
        raise ConfigError(f"storage must be among {sorted(CODECS)}, received {name!r}.{hint}")
    return CODECS[name]


def codec_pays(codec: Codec, sample: Tensor, bytes_per_s: float) -> bool:
    """Tell whether the bytes that a codec saves buy more time than encoding and decoding take.

    Args:
        codec: To be tried.
        sample: What an entry looks like.
        bytes_per_s: How fast the slower tier is written and read.
    """
    times = []
    for _ in range(3):
        started = time.perf_counter()
        payload = codec.encode(sample)
        codec.decode(payload, sample.shape, sample.dtype)
        synchronize(sample.device)
        times.append(time.perf_counter() - started)
    saved = 2 * (sample.nbytes - payload.nbytes) / bytes_per_s  # written once, read once
    return saved > sorted(times)[1]
