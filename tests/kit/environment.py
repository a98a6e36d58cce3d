"""An environment on the tiny pipeline, and a policy for it that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditcache_rl.bench import Board
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.pipelines import model_identity, scheduler_identity
from ditcache_rl.policy import Manifest, Policy
from ditcache_rl.rl import Setting
from ditcache_rl.schedules import CostModel, nominal_cost
from ditcache_rl.schedules.plan import Plan
from ditcache_rl.search import spaced_plan
from ditcache_rl.types import Floats, Tier

STEPS = (4, 6)
PROMPTS = {
    "train": (
        "a small plain red disc at left on a white background",
        "a large striped blue star at right on a black background",
        "a small striped lime moon at center on a mint background",
    ),
    "select": (
        "a large plain pink heart at left on a gray background",
        "a small plain brown cross at right on a beige background",
    ),
    "test": (
        "a large striped cyan ring at center on a navy background",
        "a small plain green pill at left on a white background",
    ),
}


def write_env(
    folder: Path,
    call: Mapping[str, Any],
    *,
    source: str = "builtin:shapes",
    sites: int = 1,
    steps: Sequence[int] = STEPS,
    budgets: Sequence[float] = (0.25, 0.5, 0.75),
    tradeoff_share: float = 0.2,
    device_bytes: str = "70%",
    tiers: str = "",
    rows: int = 4,
    episodes: int = 16,
) -> Path:
    """Write an environment file and its prompts, and return the file.

    `tiers` goes into its cache table as it is, and begins with a comma.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, prompts in PROMPTS.items():
        (folder / f"{part}.txt").write_text("\n".join(prompts))
    arguments = ", ".join(f"{name} = {value}" for name, value in call.items())
    file = folder / "tiny.toml"
    file.write_text(
        f"""
        id = "ditcache/tiny-v0"
        steps = {list(steps)}
        pipeline = {{ source = "{source}", device = "cpu", call = {{ {arguments} }} }}
        cache = {{ sites = {sites}, device_bytes = "{device_bytes}"{tiers} }}
        reward = {{ psnr = 2.0, ssim = 3.0, latency_weights = [1.0, 5.0] }}
        targets = {{ budgets = {list(budgets)}, tradeoff_share = {tradeoff_share} }}
        prompts = {{ train = "train.txt", select = "select.txt", test = "test.txt" }}
        seeds = {{ train = 10, select = 20, test = 30 }}
        search = {{ prompts = 2, evaluations = 2 }}
        ppo = {{ rows = {rows}, episodes = {episodes}, batch_size = 32, n_epochs = 2 }}
        """
    )
    return file


def tiny_config(folder: Path, call: Mapping[str, Any], **options: Any) -> EnvConfig:
    """Write an environment as `write_env` does, and read it."""
    return load_env(write_env(folder, call, **options))


def tiny_setting(config: EnvConfig, pipe: Any, *, plan: Plan | None = None) -> Setting:
    """Set up an environment on a pipeline that is at hand, time counted in computed sites."""
    steps, sites = config.steps[0], config.cache.sites
    board = Board(pipe, steps, sites=sites, call=config.pipeline.call, rows=config.ppo.rows)
    return Setting(config, board, nominal_cost(steps, sites), plan or spaced_plan(steps, sites))


def levels_of(pipe: Any, call: Mapping[str, Any], steps: int) -> Floats:
    """Return the noise levels of a pipeline's steps."""
    key = str((pipe.scheduler.config, sorted(call.items()), steps))
    if key not in _LEVELS:
        _LEVELS[key] = Board(pipe, steps, sites=1, call=dict(call)).sigmas()
    return _LEVELS[key]


_LEVELS: dict[str, Floats] = {}


def untrained_policy(
    pipe: Any,
    call: Mapping[str, Any],
    *,
    steps: Sequence[int] = STEPS,
    sites: int = 1,
    cost: CostModel | None = None,
    adaptive: Mapping[str, list[int]] | None = None,
) -> Policy:
    """Make a policy of evenly spaced schedules and a network that changes nothing."""
    actions = ActionSpace.of(sites, (Tier.DEVICE, Tier.DROP))
    cost = cost or nominal_cost(steps[0], sites)
    manifest = Manifest(
        env_id="ditcache/tiny-v0",
        env_sha256="0" * 64,
        feature_schema=schema_hash(actions.schema()),
        sites=sites,
        blocks="",
        tiers=["device", "drop"],
        model=model_identity(pipe.transformer),
        scheduler=scheduler_identity(pipe.scheduler),
        call=dict(call),
        steps=list(steps),
        adaptive=dict(adaptive or {}),
        adaptive_tradeoff=False,
        sigmas={str(count): levels_of(pipe, call, count).tolist() for count in steps},
        profile=cost.to_dict(),
        reward={"psnr": 1.0, "ssim": 1.0},
        seed=0,
        command="none",
        machine={},
        versions={},
    )
    plans = {}
    for count in steps:
        patterns = spaced_plan(count, sites).patterns
        # 10 dB for a tenth of full compute more, in every schedule.
        share = np.linspace(0, 1, len(patterns))
        plans[count] = Plan.unfitted(patterns, np.stack([100 * share, share], axis=1))
    with torch.random.fork_rng(devices=[]):
        network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    return Policy(
        manifest,
        network.eval().requires_grad_(False),
        plans,
        {steps[0]: plans[steps[0]]},
        {"select": []},
    )
