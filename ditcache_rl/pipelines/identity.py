"""Tell whether a pipeline is the one that a policy was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ditcache_rl.config import PipelineConfig
from ditcache_rl.errors import ArtifactError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines.look import empty_denoiser
from ditcache_rl.pipelines.open import open_configured, open_scheduler
from ditcache_rl.policy import Manifest

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
    return _kind(denoiser) | {"weights": digest.hexdigest()}


def scheduler_identity(scheduler: Any) -> dict[str, str]:
    """Describe a scheduler: class and digest of its config."""
    return _kind(scheduler)


def pipeline_identity(pipe: Any) -> dict[str, dict[str, str]]:
    """Describe the `model` of a pipeline, which is its first denoiser, and its `scheduler`."""
    return {
        "model": model_identity(denoiser_of(pipe)),
        "scheduler": scheduler_identity(pipe.scheduler),
    }


def _kind(part: Any) -> dict[str, str]:
    config = config_digest(getattr(part, "config", {}))
    return {"class": type(part).__name__, "config_sha256": config}


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest a diffusers config without its private entries (paths, versions)."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(public, sort_keys=True, default=str).encode()).hexdigest()


def check_identity(manifest: Manifest, pipe: Any, *, weights: bool = True) -> None:
    """Refuse a pipeline that a policy was not trained on.

    Args:
        manifest: Of the policy.
        pipe: What it shall be used on.
        weights: Whether its weights must be the same; else its configs alone.

    Raises:
        ArtifactError: Naming the first thing that differs.
    """
    expected, name = manifest.model, next(iter(denoisers_of(pipe)))
    if not weights:
        expected = {key: value for key, value in expected.items() if key != "weights"}
    received, where = pipeline_identity(pipe), type(pipe).__name__
    _compare(manifest, name, expected, received["model"], where)
    _compare(manifest, "scheduler", manifest.scheduler, received["scheduler"], where)


def check_configs(manifest: Manifest, source: str) -> None:
    """Refuse at once what `check_identity` would refuse by its configs; no weights are read.

    What can't be read is left to whoever opens it.

    Args:
        manifest: Of the policy.
        source: `builtin:shapes`, a folder, or a Hub id.

    Raises:
        ArtifactError: Naming the first thing that differs.
    """
    try:
        name, denoiser = empty_denoiser(source)
        scheduler = _kind(open_scheduler(source))
    except Exception:  # opening the pipeline says what is wrong with it
        return
    model = _kind(denoiser)
    if "quantization_config" in getattr(denoiser, "config", {}):  # loading rewrites it
        del model["config_sha256"]
    _compare(manifest, name, {key: manifest.model[key] for key in model}, model, source)
    _compare(manifest, "scheduler", manifest.scheduler, scheduler, source)


def open_matching(config: PipelineConfig, manifest: Manifest, *, weights: bool = True) -> Any:
    """Open the pipeline that a policy was trained on; another one is refused before it is loaded.

    Args:
        config: Names the pipeline.
        manifest: Of the policy.
        weights: As of `check_identity`.

    Raises:
        ArtifactError: As `check_identity`.
        ConfigError: As `open_configured`.
    """
    check_configs(manifest, config.source)
    pipe = open_configured(config)
    check_identity(manifest, pipe, weights=weights)
    return pipe


def _compare(
    manifest: Manifest,
    what: str,
    expected: Mapping[str, str],
    received: Mapping[str, str],
    where: str,
) -> None:
    for key, value in expected.items():
        if received[key] != value:
            advice = "train a policy for this pipeline"
            if key == "weights":
                advice += ", or bring this one to its weights with `ditcache-rl train --retarget`"
            raise ArtifactError(
                f"policy of another model, that of {manifest.env_id}: expected {what} {key} "
                f"{value}, received {received[key]} in {where}; {advice}"
            )
