"""The pipelines that were examined; the table is written by `benchmarks/coverage.py --docs`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def supported_pipelines() -> list[dict[str, Any]]:
    """Return a row per denoiser: its pipelines, stacks, entries, branches, and if checks pass."""
    text = resources.files("ditcache_rl.pipelines").joinpath("pipelines.json").read_text("utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows
