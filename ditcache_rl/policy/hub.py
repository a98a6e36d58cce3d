"""Upload a policy to the Hugging Face Hub, with a card that says there what it is."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ditcache_rl._version import __version__
from ditcache_rl.config.hub import POLICY_FILES, is_hub_id, reason_of
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy.card import write_card
from ditcache_rl.policy.manifest import PolicyParts
from ditcache_rl.policy.save import save_policy

_TAGS = ["diffusers", "ditcache-rl", "diffusion", "caching", "reinforcement-learning"]


def push(
    policy: PolicyParts,
    repo_id: str,
    *,
    revision: str | None,
    license: str,
    base_model: str | None,
    private: bool,
    token: str | None,
) -> str:
    """Upload a policy in one commit; arguments and errors are those of `Policy.push_to_hub`."""
    if not is_hub_id(repo_id):
        raise ConfigError(f"repo_id must be like 'org/name', received {repo_id!r}")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    card = hub_card(policy, repo_id, license=license, base_model=base_model)
    with TemporaryDirectory() as home:
        save_policy(policy, Path(home) / "policy", card=card)
        files = {path.name: path.read_bytes() for path in (Path(home) / "policy").iterdir()}
    api = HfApi(token=token, library_name="ditcache-rl", library_version=__version__)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = set(api.list_repo_files(repo_id, revision=revision))
        stale = [name for name in POLICY_FILES if name in there and name not in files]
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, data) for name, data in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Upload a policy for {policy.manifest.env_id}",
            revision=revision,
        )
    except Exception as error:  # of networks, and of the errors of several libraries
        raise ConfigError(
            f"expected that the Hugging Face Hub takes {repo_id!r}, received: {reason_of(error)}; "
            "is this machine online, and does the token of `hf auth login` allow it?"
        ) from error
    return str(commit.commit_url)


def hub_card(
    policy: PolicyParts, repo_id: str, *, license: str, base_model: str | None = None
) -> str:
    """Write a model card under the front matter that the Hub reads: YAML, metrics as model-index.

    Args:
        policy: A policy.
        repo_id: Where it will be.
        license: Under which others may use it.
        base_model: Hub id of its pipeline; None for that of its environment, if it has one there.
    """
    from huggingface_hub import ModelCardData

    source = policy.metrics.get("config", {}).get("pipeline", {}).get("source")
    facts = ModelCardData(
        library_name="ditcache-rl",
        license=license,
        base_model=base_model or (source if is_hub_id(source) else None),
        tags=_TAGS,
        model_name=repo_id.partition("/")[2],
        eval_results=_results(policy),
    )
    return f"---\n{facts.to_yaml()}\n---\n\n{write_card(policy, source=repo_id)}"


def _results(policy: PolicyParts) -> list[Any]:
    """List what 95 % of the select prompts reach at each speed-up, as far as it was measured."""
    from huggingface_hub import EvalResult

    manifest, cost = policy.manifest, policy.cost
    call = " ".join(f"{name}={value}" for name, value in manifest.call.items())
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=manifest.env_id,
            dataset_name=f"select prompts of {manifest.env_id}",
            dataset_args={"call": call, "num_inference_steps": policy.steps[0]},
            metric_type=kind,
            metric_value=round(value, 4),
            metric_name=f"{kind.upper()} against full compute that 95 % reach, {speedup:.2f}x",
        )
        for computes, one in policy.safe.get(policy.steps[0], {}).items()
        for speedup in (cost.reference_s / cost.with_computes(computes),)
        for kind, value in (("psnr", one.floor_psnr_db), ("ssim", one.floor_ssim))
        if math.isfinite(value)
    ]
