"""Write a policy folder: data only, its tensors under a digest."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from ditcache_rl.config.hub import POLICY_FILES
from ditcache_rl.files import write_json
from ditcache_rl.policy.manifest import PolicyParts

SCHEMA_VERSION = 6
MANIFEST, TENSORS, PACER, METRICS, CARD = POLICY_FILES
#: Types of the arrays of a table; those that hold nan where nothing is known.
TYPES = {
    "sigmas": torch.float64,
    "modes": torch.int8,
    "coefficients": torch.float32,
    "quality": torch.float32,
    "floors": torch.float32,
    "tiers": torch.int8,
    "reached": torch.float32,
    "expected": torch.float32,
    "slopes": torch.float32,
}


def save_policy(policy: PolicyParts, folder: Path, *, card: str) -> None:
    """Write a policy folder that does not exist yet."""
    folder.mkdir(parents=True)
    tensors = {}
    if policy.network is not None:
        state = policy.network.state_dict()
        tensors = {f"network.{name}": v.detach().contiguous() for name, v in state.items()}
    for kind, tables in (("table", policy.tables), ("safe", policy.safe)):
        for steps, table in tables.items():
            for name, values in table.to_arrays().items():
                # Copies: tables may share their noise levels, the tensors of a file may not.
                copied = torch.tensor(values, dtype=TYPES[name])
                tensors[f"{kind}.{steps}.{name}"] = copied.contiguous()
    data = save_tensors(tensors)
    facts: dict[str, Any] = {
        "steps": policy.steps,
        "safe_steps": list(policy.safe),
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
        "schema_version": SCHEMA_VERSION,
    }
    (folder / TENSORS).write_bytes(data)
    facts["pacer"] = None
    if policy.pacer is not None:
        data = save_arrays(
            {name: np.ascontiguousarray(one) for name, one in policy.pacer.to_arrays().items()}
        )
        (folder / PACER).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        facts["pacer"] = policy.pacer.to_dict() | {"tensors_sha256": digest}
    write_json(folder / METRICS, policy.metrics)
    (folder / CARD).write_text(card, encoding="utf-8")
    write_json(folder / MANIFEST, asdict(policy.manifest) | facts)
