"""Hand a policy to others: its schedules as files that others read, its network as ONNX."""

from __future__ import annotations

import csv
import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing
from ditcache_rl.machine import require
from ditcache_rl.policy.policy import Policy
from ditcache_rl.policy.schedule_file import save_schedules
from ditcache_rl.schedules import Schedule, modes_text
from ditcache_rl.schedules.collapse import output_coefficients
from ditcache_rl.types import HISTORY, Floats

#: Name of the search in an exported schedule file.
METHOD = "policy"


def export_schedules(policy: Policy, file: Path) -> None:
    """Write the schedules of a policy that were scored.

    What `eval.py` and `cached()` make of the file is what the policy does without its network.

    Raises:
        ConfigError: If no schedule was scored.
    """
    scored = {steps: table.scored() for steps, table in policy.tables.items()}
    tables = {steps: table for steps, table in scored.items() if table is not None}
    if not tables:
        raise ConfigError(
            "expected a policy with schedules whose quality is known, received none; train it again"
        )
    bare = replace(policy.manifest, network=None)
    save_schedules({METHOD: Policy(bare, tables)}, file)


def export_csv(schedule: Schedule, sigmas: Floats, file: Path) -> None:
    """Write a schedule as a table: a line per step, with noise level, mode, and what it is made of.

    Args:
        schedule: Of any sites; with several, a letter for each, and no coefficients.
        sigmas: (T + 1,) noise levels.
        file: Replaced if it is there.
    """
    one = schedule.sites == 1
    coefficients = output_coefficients(schedule, sigmas).tolist() if one else None
    letters = [text.replace(" | ", "") for text in map(modes_text, schedule.modes[:, None])]
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["step", "sigma", "computes", "mode", "newest", "second", "third"])
        for step, (letter, computes) in enumerate(zip(letters, schedule.costs, strict=True)):
            own = coefficients[step] if coefficients else [""] * HISTORY
            table.writerow([step, float(sigmas[step]), int(computes), letter, *own])


def export_onnx(policy: Policy, file: Path) -> None:
    """Write the network as an ONNX graph from `observation` to `logits`, any number of rows.

    Observations are laid out as `features` does it; a step takes the action with the largest logit
    among those that its target allows. The names of the features and of the actions are in the
    metadata.

    Args:
        policy: Whose network.
        file: Replaced if it is there.

    Raises:
        ConfigError: If the policy has no network, or `onnx` or `onnxscript` is not installed.
    """
    require("onnx", "onnx", "onnxscript")
    use = policy.manifest.network
    if policy.network is None or use is None:
        raise ConfigError("expected a policy with a network, received one of schedules alone")
    actions = policy.manifest.actions
    names = actions.schema()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # What the exporter says of its own future and of packages that it does not need.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                policy.network,
                (torch.zeros(2, len(names)),),
                dynamo=True,
                input_names=["observation"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None, "dynamo=True returns it"
    program.model.metadata_props.update(
        features=json.dumps(names),
        patterns=json.dumps(actions.patterns.tolist()),
        tiers=json.dumps(use.tiers),
        model=json.dumps(policy.manifest.model),
    )
    with replacing(file) as partial:
        program.save(partial, external_data=False)
