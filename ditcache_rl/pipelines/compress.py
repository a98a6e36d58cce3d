"""Make a denoiser smaller before anything is learned on it: quantized layers, blocks left out."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import denoisers_of, find_blocks, split_path
from ditcache_rl.machine import require


def check_quantization(kind: str) -> None:
    """Refuse a kind of quantization that is unknown, or whose library is not installed.

    Raises:
        ConfigError: If it is one; "" is none.
    """
    if kind not in ("", *_KINDS):
        names = ", ".join(repr(name) for name in ("", *_KINDS))
        raise ConfigError(f"[pipeline] quantize must be one of {names}, received {kind!r}")
    if kind in _OF_TORCHAO:
        require("quantize", "torchao")


def quantize_weights(denoiser: nn.Module, kind: str) -> None:
    """Quantize linear layers of a denoiser in place.

    Args:
        denoiser: The model.
        kind: "int8" and "fp8" keep the weights of all layers as such (torchao): less memory, hardly
            less time. "int8-dynamic" multiplies in int8 on a CPU (torch's own kernels): faster, and
            worse, so it leaves the layers of the norms alone. "" changes nothing.

    Raises:
        ConfigError: As `check_quantization`, or if it is not for this device and precision.
    """
    check_quantization(kind)
    if kind:
        _KINDS[kind](denoiser)


def _keep_as(config: str, denoiser: nn.Module) -> None:
    from torchao import quantization

    quantization.quantize_(denoiser, getattr(quantization, config)())


def _multiply_in_int8(denoiser: nn.Module) -> None:
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    first = next(denoiser.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise ConfigError(
            "[pipeline] quantize = 'int8-dynamic' needs device = 'cpu' and dtype = 'float32', "
            f"received {first.device.type} and {first.dtype}; 'int8' takes any"
        )
    for block in find_blocks(denoiser):
        linear = {name for name, layer in block.named_modules() if type(layer) is nn.Linear}
        spec = {name: per_channel_dynamic_qconfig for name in linear if "norm" not in name}
        with warnings.catch_warnings():  # torch says that torchao will have it one day
            warnings.simplefilter("ignore")
            quantize_dynamic(block, spec, torch.qint8, None, True)  # type: ignore[no-untyped-call]


_OF_TORCHAO: dict[str, Callable[[nn.Module], None]] = {
    "int8": partial(_keep_as, "Int8WeightOnlyConfig"),
    "fp8": partial(_keep_as, "Float8WeightOnlyConfig"),
}
_KINDS = {**_OF_TORCHAO, "int8-dynamic": _multiply_in_int8}


def prune_blocks(pipe: Any, paths: Sequence[str]) -> None:
    """Leave whole blocks of a denoiser out, in place.

    Args:
        pipe: The pipeline.
        paths: As "transformer.single_transformer_blocks.3", numbered as in the whole model.

    Raises:
        ConfigError: If there is no such block, or a list of blocks would be left empty.
    """
    denoisers = denoisers_of(pipe)
    chosen: dict[str, set[int]] = defaultdict(set)
    lists: dict[str, nn.ModuleList] = {}
    for path in paths:
        where, _, number = path.rpartition(".")
        name, attribute = split_path(where)
        found = getattr(denoisers.get(name), attribute, None) if attribute else None
        size = len(found) if isinstance(found, nn.ModuleList) else 0
        if found is None or not number.isdecimal() or int(number) >= size:
            raise ConfigError(
                "[pipeline] prune must list blocks as 'transformer.transformer_blocks.0' in "
                f"{', '.join(denoisers)}, received {path!r}"
                + (f"; {where} has {size} blocks" if size else "")
            )
        lists[where] = found
        chosen[where].add(int(number))
    for where, numbers in chosen.items():
        if len(numbers) == len(lists[where]):
            raise ConfigError(
                f"[pipeline] prune must leave a block of every list, received all of {where}"
            )
    for where, numbers in chosen.items():
        for place in sorted(numbers, reverse=True):
            del lists[where][place]
