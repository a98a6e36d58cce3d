"""What contenders are made of, so that a run knows which of them have changed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.peers.learned import FITTED, fitted_key
from ditcache_rl.policy.save import MANIFEST
from ditcache_rl.schedules import ScheduleTable


def made_of(name: str, entry: dict[str, Any], policy: Path, table: ScheduleTable | None) -> str:
    """Return a digest of what a contender is made of: what was searched for it, or the policy.

    Args:
        name: Of the contender. What is after a comma draws with what was searched for the name
            before it, unless it has something of its own.
        entry: What was searched.
        policy: Its folder.
        table: As of `schedules_for`.
    """
    base = name.split(",")[0]
    parts = [
        entry[kind][one]
        for kind in ("schedules", "solvers", "settings")
        for one in (name, base)
        if one in entry.get(kind, {})
    ]
    if name == FITTED:
        parts.append(entry["schedulers"].get("" if table is None else fitted_key(table)))
    elif base == "policy":
        parts.append((policy / MANIFEST).read_text(encoding="utf-8"))
    return sha256(json.dumps(parts).encode()).hexdigest()[:12]
