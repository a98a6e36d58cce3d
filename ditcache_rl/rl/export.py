"""Hand a policy to others: its schedules as a schedule file, its network as ONNX."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing
from ditcache_rl.machine import require
from ditcache_rl.policy import (
    Policy,
    Schedule,
    ScheduleFile,
    modes_text,
    save_schedules,
    weights_lists,
)

#: Name of the search in an exported schedule file.
METHOD = "policy"


def export_schedules(policy: Policy, file: Path) -> None:
    """Write the schedules of a policy that were scored, one per step count and budget.

    What `eval.py` and `cached()` make of the file is what the policy does without its network.

    Raises:
        ConfigError: If no schedule was scored.
    """
    manifest, config = policy.manifest, policy.metrics["config"]
    patterns = manifest.actions.patterns
    schedules = [
        Schedule(
            METHOD,
            steps,
            modes_text(patterns[plan.patterns[budget]]),
            float(plan.quality[budget, 0]),
            float(plan.quality[budget, 1]),
            weights_lists(plan.weights[budget]),
        )
        for steps, plan in policy.plans.items()
        for budget in np.flatnonzero(np.isfinite(plan.quality[:, 0]))
        if plan.patterns[budget, 0] >= 0
    ]
    if not schedules:
        raise ConfigError(
            "expected a policy with schedules whose quality is known, received none; train it again"
        )
    save_schedules(
        ScheduleFile(
            env_id=manifest.env_id,
            env_sha256=manifest.env_sha256,
            sites=manifest.sites,
            blocks=manifest.blocks,
            model=manifest.model,
            scheduler=manifest.scheduler,
            call=manifest.call,
            sigmas=manifest.sigmas,
            profile=manifest.profile,
            reward={name: manifest.reward[name] for name in ("psnr", "ssim")},
            prompts=config["search"]["prompts"],
            evaluations=config["search"]["evaluations"],
            seed=manifest.seed,
            command=manifest.command,
            machine=manifest.machine,
            versions=manifest.versions,
            schedules=schedules,
        ),
        file,
    )


def export_onnx(policy: Policy, file: Path) -> None:
    """Write the network as an ONNX graph from `observation` to `logits`, any number of rows.

    Observations are laid out as `features` does it; a step takes the action with the largest logit
    among those that its budget allows. The names of the features and of the actions are in the
    metadata.

    Args:
        policy: Whose network.
        file: Replaced if it is there.

    Raises:
        ConfigError: If `onnx` or `onnxscript` is not installed.
    """
    require("onnx", "onnx", "onnxscript")
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
        tiers=json.dumps(policy.manifest.tiers),
        model=json.dumps(policy.manifest.model),
    )
    with replacing(file) as partial:
        program.save(partial, external_data=False)
