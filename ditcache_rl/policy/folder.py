"""Read and check a policy folder.

A policy is data: `manifest.json`, `controller.safetensors`, `metrics.json` and a `README.md`, and
`pacer.safetensors` where it keeps deadlines.
Nothing in it names code, nothing is unpickled, and sizes are bounded before anything is allocated.
The digest of the tensors catches accidents, not attackers: both files lie in one folder.
"""

from __future__ import annotations

import hashlib
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditcache_rl.config import find_policy
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import parse_tensors, read_bytes, read_json
from ditcache_rl.policy.manifest import Manifest, read_fields, read_manifest
from ditcache_rl.policy.policy import Policy
from ditcache_rl.policy.save import MANIFEST, METRICS, PACER, SCHEMA_VERSION, TENSORS, TYPES
from ditcache_rl.schedules import ScheduleTable
from ditcache_rl.schedules.patterns import pattern_numbers
from ditcache_rl.types import MOST_STEPS
from ditcache_rl.world import Pacer, Pacing

_MOST_TENSOR_BYTES = 1 << 24
_MAY_LACK = ("coefficients", "quality", "floors", "reached", "expected", "slopes")
#: Arrays that are there only where a schedule has them.
_OPTIONAL = ("tiers", "reached", "expected", "slopes")


def load_policy(source: str | Path, *, revision: str | None = None) -> Policy:
    """Open a policy: a folder, a shipped one by its name, or one of the Hugging Face Hub.

    Args:
        source: A folder that is there; or a name without a slash, of a shipped policy; or
            "org/name", which is downloaded from the Hub, or taken from its cache where the Hub is
            out of reach. A `Path` is a folder always.
        revision: Branch, tag or commit of the Hub; with it `source` is a Hub id.

    Raises:
        ArtifactError: If a file is missing, altered, too large, of another version, or holds what
            it should not; the message names file and field.
        ConfigError: If there is no such policy; the message has the nearest name.
    """
    folder = find_policy(source, revision=revision)
    path, where = folder / MANIFEST, folder / TENSORS
    raw = read_json(path)
    version = raw.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, received {version!r}; train the "
            "policy again with this version"
        )
    counts = {name: raw.pop(name, None) for name in ("steps", "safe_steps")}
    digest, pacing = raw.pop("tensors_sha256", None), raw.pop("pacer", None)
    manifest = read_manifest(raw, str(path))
    for name, steps in counts.items():
        if not isinstance(steps, list) or not all(
            type(one) is int and 1 <= one <= MOST_STEPS for one in steps
        ):
            raise ArtifactError(
                f"{path}: {name} must be integers in [1, {MOST_STEPS}], received {steps!r:.80}"
            )
    if not counts["steps"]:
        raise ArtifactError(f"{path}: steps must have at least one number, received none")
    if not isinstance(digest, str):
        raise ArtifactError(f"{path}: tensors_sha256 must be str, received {digest!r:.80}")
    tensors = _read_tensors(where, digest)
    network = _network(tensors, manifest, folder)
    tables = {
        kind: {steps: _table(tensors, f"{kind}.{steps}", manifest, where) for steps in counts[name]}
        for kind, name in (("table", "steps"), ("safe", "safe_steps"))
    }
    if tensors:
        raise ArtifactError(f"{where}: expected no other tensors, received {sorted(tensors)}")
    if network is not None:
        _check_patterns([*tables["table"].values(), *tables["safe"].values()], manifest, where)
    manifest.check_profile(counts["steps"][0], str(path))
    pacer = None if pacing is None else _pacer(pacing, folder)
    metrics = read_json(folder / METRICS)
    return Policy(manifest, tables["table"], tables["safe"], network, metrics, pacer)


def _pacer(raw: Any, folder: Path) -> Pacer:
    """Read what keeps deadlines."""
    path, where = folder / PACER, f"{folder / MANIFEST}: pacer"
    if not isinstance(raw, dict) or not isinstance(raw.get("tensors_sha256"), str):
        raise ArtifactError(f"{where}: expected numbers and tensors_sha256, received {raw!r:.80}")
    pacing = read_fields(Pacing, {k: v for k, v in raw.items() if k != "tensors_sha256"}, where)
    tensors = _read_tensors(path, raw["tensors_sha256"])
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ArtifactError(f"{path}: {name} must be finite; export the policy again")
    try:
        return Pacer.from_arrays(pacing, {name: one.numpy() for name, one in tensors.items()})
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; export the policy again") from error


def _read_tensors(path: Path, wanted: str) -> dict[str, Tensor]:
    data = read_bytes(path, _MOST_TENSOR_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != wanted:
        raise ArtifactError(
            f"{path}: expected sha256 {wanted} as in {MANIFEST}, received {digest}; export the "
            "policy again"
        )
    return parse_tensors(data, str(path))


def _table(tensors: dict[str, Tensor], name: str, manifest: Manifest, path: Path) -> ScheduleTable:
    """Take a table's tensors out of a file's."""
    arrays = {
        part: _take(tensors, f"{name}.{part}", kind, path, may_lack=part in _MAY_LACK).numpy()
        for part, kind in TYPES.items()
        if part not in _OPTIONAL or f"{name}.{part}" in tensors
    }
    try:
        table = ScheduleTable.from_arrays(arrays)
    except ConfigError as error:
        raise ArtifactError(f"{path}: {name}: {error}; export the policy again") from error
    steps = int(name.partition(".")[2])
    if (table.steps, table.sites) != (steps, manifest.sites):
        raise ArtifactError(
            f"{path}: {name}: expected {steps} steps of {manifest.sites} sites, received "
            f"{table.steps} of {table.sites}; export the policy again"
        )
    return table


def _network(tensors: dict[str, Tensor], manifest: Manifest, folder: Path) -> PolicyNetwork | None:
    """Take the network's tensors out of a file's."""
    if manifest.network is None:
        return None
    actions = manifest.actions
    names = actions.schema()
    if schema_hash(names) != manifest.network.feature_schema:
        raise ArtifactError(
            f"{folder / MANIFEST}: expected feature_schema {schema_hash(names)}, received "
            f"{manifest.network.feature_schema}; the policy was made by another version, train it "
            "again"
        )
    network = _blank(tensors, len(names), actions.logits)
    state = {
        name: _take(tensors, f"network.{name}", torch.float32, folder / TENSORS, like=value)
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.requires_grad_(False)


def _blank(tensors: dict[str, Tensor], observations: int, logits: int) -> PolicyNetwork:
    """Make a network of as many layers, and as wide ones, as a file has."""
    places = (f"network.hidden.{2 * layer}.weight" for layer in count())
    weights = [tensors[name] for name in takewhile(tensors.__contains__, places)]
    if not all(weight.ndim == 2 and len(weight) for weight in weights) or not weights:
        return PolicyNetwork(observations - logits, logits)  # what is amiss is told by name
    reads_all = weights[0].shape[1] == observations
    features = observations if reads_all else observations - logits
    return PolicyNetwork(features, logits, [len(weight) for weight in weights])


def _take(
    tensors: dict[str, Tensor],
    name: str,
    kind: torch.dtype,
    path: Path,
    *,
    may_lack: bool = False,
    like: Tensor | None = None,
) -> Tensor:
    """Take a tensor out of a file's, and check it."""
    if name not in tensors:
        raise ArtifactError(f"{path}: expected a tensor {name}, received {sorted(tensors)}")
    tensor = tensors.pop(name)
    if like is not None and tensor.shape != like.shape:
        raise ArtifactError(
            f"{path}: {name} must have shape {tuple(like.shape)}, received {tuple(tensor.shape)}"
        )
    if tensor.dtype != kind:
        raise ArtifactError(f"{path}: {name} must be {kind}, received {tensor.dtype}")
    if tensor.isnan().any() and not may_lack:
        raise ArtifactError(f"{path}: {name} must be finite; export the policy again")
    return tensor


def _check_patterns(tables: list[ScheduleTable], manifest: Manifest, path: Path) -> None:
    """Check that a network can act as every schedule does."""
    patterns = manifest.actions.patterns
    for table in tables:
        for scored in table.values():
            try:
                pattern_numbers(scored.schedule.modes, patterns)
            except ConfigError as error:
                raise ArtifactError(f"{path}: {error}; export the policy again") from error
