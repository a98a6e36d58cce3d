"""Tell whether a pipeline is the one that a policy was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ditcache_rl.errors import ArtifactError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.runner import denoiser_of

_SAMPLES = 64


def model_identity(denoiser: nn.Module) -> dict[str, str]:
    """Describe a denoiser: class, digest of its config, fingerprint of its weights.

    The fingerprint takes up to 64 numbers of every parameter, in bfloat16, so that it does not
    depend on the precision in which the same weights were loaded.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in denoiser.named_parameters():
        data: Any = parameter.detach()
        if type(data) is not torch.Tensor:  # quantized: what it stands for is what counts
            data = data.dequantize()
        flat = data.flatten()
        stride = max(1, flat.numel() // _SAMPLES)
        sampled = flat[::stride][:_SAMPLES].to(torch.bfloat16).cpu().view(torch.int16).numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sampled.tobytes())
    return {
        "class": type(denoiser).__name__,
        "config_sha256": config_digest(getattr(denoiser, "config", {})),
        "weights": digest.hexdigest(),
    }


def scheduler_identity(scheduler: Any) -> dict[str, str]:
    """Describe a scheduler: class and digest of its config."""
    return {"class": type(scheduler).__name__, "config_sha256": config_digest(scheduler.config)}


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest a diffusers config without its private entries (paths, versions)."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(public, sort_keys=True, default=str).encode()).hexdigest()


def check_identity(
    expected_model: Mapping[str, str], expected_scheduler: Mapping[str, str], pipe: Any
) -> None:
    """Refuse a pipeline that a policy was not trained on.

    Raises:
        ArtifactError: Naming the first thing that differs.
    """
    pairs = (
        (next(iter(denoisers_of(pipe))), expected_model, model_identity(denoiser_of(pipe))),
        ("scheduler", expected_scheduler, scheduler_identity(pipe.scheduler)),
    )
    for what, expected, received in pairs:
        for key, value in expected.items():
            if received[key] != value:
                raise ArtifactError(
                    f"policy of another model: expected {what} {key} {value}, received "
                    f"{received[key]} in {type(pipe).__name__}; train a policy for this pipeline"
                )
