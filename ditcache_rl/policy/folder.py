"""Read, check and write a policy folder.

A policy is data: `manifest.json`, `controller.safetensors`, `metrics.json` and a `README.md`.
Nothing in it names code, nothing is unpickled, and sizes are bounded before anything is allocated.
The digest of the tensors catches accidents, not attackers: both files lie in one folder.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.errors import ArtifactError, closest
from ditcache_rl.files import fits, read_bytes, read_json, write_json
from ditcache_rl.schedules import Leveled
from ditcache_rl.schedules.carry import check_sigmas
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.types import HISTORY, Tier

SCHEMA_VERSION = 4
MANIFEST, TENSORS, METRICS, CARD = (
    "manifest.json",
    "controller.safetensors",
    "metrics.json",
    "README.md",
)
_MOST_TENSOR_BYTES = 1 << 24
#: Ends of the names of tensors that hold nan where nothing is known.
_MAY_LACK = ("quality", "weights", "floors")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a policy was made for, and how.

    Attributes:
        env_id: Id of the environment.
        env_sha256: Digest of its file.
        feature_schema: Digest of the observation, see `features.schema_hash`.
        sites: Parts of the block stack.
        blocks: Where the blocks are, as in an environment file.
        tiers: Names of the tiers that an action may choose.
        model: Class, digest of the config and fingerprint of the weights of the transformer.
        scheduler: Class and digest of the config.
        call: Arguments that the pipeline was called with.
        steps: Step counts that the policy has schedules for.
        adaptive: Per step count, the budgets at which the network beats its static schedule.
        adaptive_tradeoff: Whether the network is used under a tradeoff.
        sigmas: Per step count, the noise levels, (steps + 1,).
        profile: The cost model of the machine that trained it, at the first step count.
        reward: Weights of PSNR, SSIM and latency.
        seed: Of the training.
        command: Command line of the training.
        machine: Where it ran.
        versions: Of the packages.
        tensors_sha256: Digest of `controller.safetensors`.
        schema_version: Of this format.
    """

    env_id: str
    env_sha256: str
    feature_schema: str
    sites: int
    blocks: str
    tiers: list[str]
    model: dict[str, str]
    scheduler: dict[str, str]
    call: dict[str, Any]
    steps: list[int]
    adaptive: dict[str, list[int]]
    adaptive_tradeoff: bool
    sigmas: dict[str, list[float]]
    profile: dict[str, float]
    reward: dict[str, float]
    seed: int
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    tensors_sha256: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def actions(self) -> ActionSpace:
        """The discrete actions of the policy."""
        return ActionSpace.of(self.sites, tuple(Tier[name.upper()] for name in self.tiers))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in memory.

    Attributes:
        manifest: What it was made for.
        network: Corrects the plans.
        plans: Per step count, the static schedules.
        safe: Per step count with measured floors, which is the first one, the schedules for these.
        metrics: Measured results, as written to `metrics.json`.
    """

    manifest: Manifest
    network: PolicyNetwork
    plans: Mapping[int, Plan]
    safe: Mapping[int, Plan]
    metrics: Mapping[str, Any]

    @property
    def leveled(self) -> list[Leveled]:
        """The plans with the noise levels that they were made for."""
        return [
            Leveled(plan, np.array(self.manifest.sigmas[str(steps)]))
            for steps, plan in self.plans.items()
        ]


def save_policy(policy: Policy, folder: Path, *, card: str) -> None:
    """Write a policy folder that does not exist yet."""
    folder.mkdir(parents=True)
    tensors = {
        f"network.{k}": v.detach().contiguous() for k, v in policy.network.state_dict().items()
    }
    for kept, plans in (("plan", policy.plans), ("safe", policy.safe)):
        for steps, plan in plans.items():
            for name, values in plan._asdict().items():
                kind = np.int32 if name == "patterns" else np.float32
                tensors[f"{kept}.{steps}.{name}"] = torch.from_numpy(
                    np.ascontiguousarray(values, dtype=kind)
                )
    data = save_tensors(tensors)
    manifest = asdict(policy.manifest) | {"tensors_sha256": hashlib.sha256(data).hexdigest()}
    (folder / TENSORS).write_bytes(data)
    write_json(folder / METRICS, policy.metrics)
    (folder / CARD).write_text(card, encoding="utf-8")
    write_json(folder / MANIFEST, manifest)


def load_policy(folder: Path) -> Policy:
    """Open a policy folder.

    Raises:
        ArtifactError: If a file is missing, altered, too large, of another version, or holds what
            it should not; the message names file and field.
    """
    manifest = _read_manifest(folder)
    data = read_bytes(folder / TENSORS, _MOST_TENSOR_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest.tensors_sha256:
        raise ArtifactError(
            f"{folder / TENSORS}: expected sha256 {manifest.tensors_sha256} as in {MANIFEST}, "
            f"received {digest}; export the policy again"
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(
            f"{folder / TENSORS}: expected safetensors, received {error}; export the policy again"
        ) from error
    actions = manifest.actions
    names = actions.schema()
    if schema_hash(names) != manifest.feature_schema:
        raise ArtifactError(
            f"{folder / MANIFEST}: expected feature_schema {schema_hash(names)}, received "
            f"{manifest.feature_schema}; the policy was made by another version, train it again"
        )
    network = PolicyNetwork(len(names) - actions.logits, actions.logits)
    expected = {f"network.{k}": tuple(v.shape) for k, v in network.state_dict().items()}
    wanted = [*(("plan", steps) for steps in manifest.steps), ("safe", manifest.steps[0])]
    for kept, steps in wanted:
        budgets = steps * manifest.sites + 1
        expected |= {
            f"{kept}.{steps}.patterns": (budgets, steps),
            f"{kept}.{steps}.quality": (budgets, 2),
            f"{kept}.{steps}.weights": (budgets, steps, HISTORY),
            f"{kept}.{steps}.floors": (budgets, 2),
        }
    _check_tensors(tensors, expected, folder / TENSORS)
    network.load_state_dict({k: tensors[f"network.{k}"] for k in network.state_dict()})
    plans: dict[str, dict[int, Plan]] = {"plan": {}, "safe": {}}
    for kept, steps in wanted:
        where = f"{kept}.{steps}"
        plan = plans[kept][steps] = Plan(
            tensors[f"{where}.patterns"].numpy().astype(np.int64),
            tensors[f"{where}.quality"].numpy().astype(np.float64),
            tensors[f"{where}.weights"].numpy().astype(np.float64),
            tensors[f"{where}.floors"].numpy().astype(np.float64),
        )
        _check_plan(plan, len(actions.patterns), f"{folder / TENSORS}: {where}.patterns")
        _check_weights(plan, manifest.sites, f"{folder / TENSORS}: {where}.weights")
    metrics = read_json(folder / METRICS)
    return Policy(manifest, network.requires_grad_(False), plans["plan"], plans["safe"], metrics)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    raw = read_json(path)
    known = {field.name: field.type for field in fields(Manifest)}
    for name in raw.keys() - known.keys():
        raise ArtifactError(f"{path}: unknown field {name!r}.{closest(name, known)}")
    for name in known.keys() - raw.keys():
        raise ArtifactError(f"{path}: expected a field {name!r}, received none")
    if raw["schema_version"] != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, received {raw['schema_version']!r}"
        )
    for name, hint in typing.get_type_hints(Manifest).items():
        if not fits(raw[name], hint):
            raise ArtifactError(f"{path}: {name} must be {known[name]}, received {raw[name]!r:.80}")
    manifest = Manifest(**raw)
    tiers = {tier.name.lower() for tier in Tier}
    if not 1 <= manifest.sites <= 256:
        raise ArtifactError(
            f"{path}: sites must be an integer in [1, 256], received {manifest.sites!r}"
        )
    if not manifest.tiers or not set(manifest.tiers) <= tiers:
        raise ArtifactError(
            f"{path}: tiers must be among {sorted(tiers)}, received {manifest.tiers!r}"
        )
    if not manifest.steps or not all(1 <= steps <= 4096 for steps in manifest.steps):
        raise ArtifactError(
            f"{path}: steps must be one or more integers in [1, 4096], received {manifest.steps!r}"
        )
    check_sigmas(manifest.sigmas, manifest.steps, str(path))
    return manifest


def _check_plan(plan: Plan, patterns: int, where: str) -> None:
    """Check that every row is a schedule that starts with full compute, or is empty."""
    low, high = plan.patterns.min(), plan.patterns.max()
    if low < -1 or high >= patterns:
        raise ArtifactError(f"{where} must lie in [-1, {patterns - 1}], received [{low}, {high}]")
    rows = (plan.patterns >= 0).any(axis=1)
    if not rows.any() or (plan.patterns[rows] < 0).any() or plan.patterns[rows, 0].any():
        raise ArtifactError(
            f"{where} must hold schedules that start with pattern 0, and rows of -1 where there is "
            f"none, received {plan.patterns[rows][:3].tolist()!r:.80}; export the policy again"
        )


def _check_weights(plan: Plan, sites: int, where: str) -> None:
    """Check that a step has all of its weights or none, and that one site alone has any."""
    has = np.isfinite(plan.weights)
    if (has.any(axis=2) != has.all(axis=2)).any() or (has.any() and sites != 1):
        raise ArtifactError(
            f"{where} must be finite or nan as a whole at every step, and nan where there is more "
            f"than one site, received {has.any(axis=2).sum()} steps for {sites} sites; "
            "export the policy again"
        )


def _check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    if tensors.keys() != expected.keys():
        raise ArtifactError(
            f"{path}: expected tensors {sorted(expected)}, received {sorted(tensors)}"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{path}: {name} must have shape {shape}, received {tuple(tensor.shape)}"
            )
        kind = torch.int32 if name.endswith("patterns") else torch.float32
        if tensor.dtype != kind:
            raise ArtifactError(f"{path}: {name} must be {kind}, received {tensor.dtype}")
        if tensor.isinf().any() or (tensor.isnan().any() and not name.endswith(_MAY_LACK)):
            raise ArtifactError(f"{path}: {name} must be finite; export the policy again")
