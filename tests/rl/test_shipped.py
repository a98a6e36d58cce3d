"""The policies that are there: those that ship, and those that `make train` has left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.save_util import load_from_zip_file

import ditcache_rl as dc
from ditcache_rl.config import find_policy, load_env, shipped_policies
from ditcache_rl.metrics import psnr_db
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.rl.policy import MaskablePriorPolicy

RUNS = Path(__file__).parents[2] / "runs" / "shapes"
TRAINED = sorted(
    path.parent for path in RUNS.glob("*/agent.zip") if (path.parent / "policy").is_dir()
)
OBSERVATIONS = 10_000


def actor_of(policy: Policy, run: Path) -> MaskablePriorPolicy:
    """Rebuild the policy that PPO trained from its checkpoint."""
    actions = policy.manifest.actions
    box = spaces.Box(-10.0, 10.0, (len(actions.schema()),), np.float32)
    kinds = spaces.MultiDiscrete([len(actions.patterns), len(actions.tiers)])
    actor = MaskablePriorPolicy(box, kinds, lambda _: 1e-3)
    _, parameters, _ = load_from_zip_file(run / "agent.zip", load_data=False, device="cpu")
    actor.load_state_dict(parameters["policy"])
    return actor


@pytest.mark.parametrize("run", TRAINED, ids=lambda run: run.name)
def test_a_trained_export_decides_as_its_ppo_policy(run: Path) -> None:
    policy = load_policy(run / "policy")
    assert policy.network is not None
    names = policy.manifest.actions.schema()
    rng = np.random.default_rng(0)
    observations = torch.from_numpy(
        rng.uniform(-5, 5, (OBSERVATIONS, len(names))).astype(np.float32)
    )

    with torch.inference_mode():
        ours = policy.network(observations)
        theirs = actor_of(policy, run).action_net(observations)

    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", shipped_policies())
def test_a_shipped_policy_draws_nearly_the_reference_in_half_the_computes(name: str) -> None:
    policy, config = load_policy(find_policy(name)), load_env(name.removesuffix("-ppo"))
    pipe = open_pipeline(config.pipeline.source)
    pipe.set_progress_bar_config(disable=True)
    steps, table = policy.steps[0], policy.tables[policy.steps[0]]
    # What 95 % of the select prompts reach with the best schedule in half of the computes.
    most = max(computes for computes in table if computes <= table.site_steps // 2)
    floor_db = table[most].floor_psnr_db

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        made: Any = pipe(
            "a small striped orange moon at left on a white background",
            num_inference_steps=steps,
            generator=generator,
            output_type="pt",
            **config.pipeline.call,
        )
        image: torch.Tensor = made.images
        return image

    reference = draw()
    with dc.cached(pipe, policy, budget=0.5) as run:
        image = draw()

    assert run.logs[0].compute_share[0] <= 0.5
    assert psnr_db(image, reference)[0] > floor_db
    torch.testing.assert_close(draw(), reference, rtol=0, atol=0)


@pytest.mark.parametrize("name", shipped_policies())
def test_a_shipped_policy_has_a_schedule_for_every_budget_it_promises(name: str) -> None:
    policy = load_policy(find_policy(name))

    for steps, table in policy.tables.items():
        assert list(table)[-1] == steps * policy.manifest.sites
        assert [(one.schedule.modes == 0).sum() for one in table.values()] == list(table)
