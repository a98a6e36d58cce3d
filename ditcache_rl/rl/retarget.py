"""Recalibrate a policy for a pipeline with other weights: quantized, fine-tuned, or merged.

The schedules are kept, what calls cost is measured again. The network, the floors and what keeps
deadlines are left out: that it beats the schedules, what they reach, and what gaps cost was shown
for the weights that it was trained on, and for no others.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ditcache_rl.bench import measure_profile
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing_folder
from ditcache_rl.pipelines import check_identity, open_matching, pipeline_identity
from ditcache_rl.policy import Policy, save_policy
from ditcache_rl.policy.card import write_card
from ditcache_rl.policy.save import MANIFEST


def retarget(policy: Policy, pipe: Any, config: EnvConfig) -> Policy:
    """Return the policy for another pipeline of the same configs.

    Args:
        policy: Trained on other weights.
        pipe: What it shall be used on.
        config: The environment, for a prompt and the arguments of a call.

    Raises:
        ArtifactError: If its model has another class or config, or its scheduler.
    """
    manifest = policy.manifest
    check_identity(manifest, pipe, weights=False)
    cost = measure_profile(
        pipe,
        steps=policy.steps[0],
        sites=manifest.sites,
        prompt=config.read_prompts("train")[0],
        call=config.pipeline.call,
        blocks=manifest.blocks,
    )
    model = pipeline_identity(pipe)["model"]
    fresh = replace(manifest, model=model, profile=cost.to_dict(), network=None)
    tables, safe = (
        {steps: table.without_floors() for steps, table in kept.items()}
        for kept in (policy.tables, policy.safe)
    )
    return replace(policy, manifest=fresh, tables=tables, safe=safe, network=None, pacer=None)


def check_place(out: Path, *, force: bool) -> None:
    """Refuse to replace what is not wanted replaced, or is no policy.

    Raises:
        ConfigError: If the folder exists, unless it is a policy that may be replaced.
    """
    if not out.exists():
        return
    if not force:
        raise ConfigError(
            f"expected a new folder for the policy, {out} exists; use --force or another --out"
        )
    if not (out / MANIFEST).exists():
        raise ConfigError(f"--force replaces policies only; {out} has no {MANIFEST}")


def retarget_folder(policy: Policy, out: Path, config: EnvConfig, *, force: bool = False) -> Path:
    """Recalibrate a policy into a folder, for the pipeline of an environment.

    Raises:
        ConfigError: As `check_place`, or if the pipeline cannot be opened.
        ArtifactError: As `retarget`, before its weights are read.
    """
    check_place(out, force=force)
    pipe = open_matching(config.pipeline, policy.manifest, weights=False)
    fresh = retarget(policy, pipe, config)
    with replacing_folder(out) as partial:
        save_policy(fresh, partial, card=write_card(fresh))
    return out
