"""An environment on the tiny pipeline, and a policy for it that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ditcache_rl.bench import Board
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.pipelines import model_identity, scheduler_identity
from ditcache_rl.policy import Manifest, NetworkUse, Policy
from ditcache_rl.rl import Scenario
from ditcache_rl.schedules import CostModel, ScheduleTable, Scored, nominal_cost, spaced_table
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
    world: str = "",
    agent: str = "settings = { batch_size = 32, n_epochs = 2 }",
) -> Path:
    """Write an environment file and its prompts, and return the file.

    `tiers` goes into its cache table as it is, and begins with a comma; `world` is its world;
    `agent` goes into that of its agent.
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
        agent = {{ rows = {rows}, episodes = {episodes}, {agent} }}
        world = {{ {world} }}
        """
    )
    return file


def tiny_config(folder: Path, call: Mapping[str, Any], **options: Any) -> EnvConfig:
    """Write an environment as `write_env` does, and read it."""
    return load_env(write_env(folder, call, **options))


def tiny_scenario(config: EnvConfig, pipe: Any, *, table: ScheduleTable | None = None) -> Scenario:
    """Set up an environment on a pipeline that is at hand, time counted in computed sites."""
    steps, sites = config.steps[0], config.cache.sites
    board = Board(pipe, steps, sites=sites, call=config.pipeline.call, rows=config.agent.rows)
    table = table or spaced_table(board.sigmas(), sites)
    return Scenario(config, board, nominal_cost(steps, sites), table)


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
        sites=sites,
        blocks="",
        model=model_identity(pipe.transformer),
        scheduler=scheduler_identity(pipe.scheduler),
        call=dict(call),
        profile=cost.to_dict(),
        objective={"psnr": 1.0, "ssim": 1.0},
        prompts=2,
        evaluations=2,
        seed=0,
        command="none",
        machine={},
        versions={},
        network=NetworkUse(
            feature_schema=schema_hash(actions.schema()),
            tiers=["device", "drop"],
            adaptive=dict(adaptive or {}),
            adaptive_tradeoff=False,
        ),
    )
    tables = {}
    for count in steps:
        table = spaced_table(levels_of(pipe, call, count), sites)
        # 10 dB for a tenth of full compute more, in every schedule.
        tables[count] = ScheduleTable.of(
            table.sigmas,
            (
                Scored(one.schedule, 100 * computes / table.site_steps, computes / table.site_steps)
                for computes, one in table.items()
            ),
        )
    with torch.random.fork_rng(devices=[]):
        network = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    return Policy(
        manifest,
        tables,
        {steps[0]: tables[steps[0]]},
        network.eval().requires_grad_(False),
        {"select": []},
    )
