"""Hand a policy's schedule on as a scheduler of as many steps as it computes."""

from __future__ import annotations

from typing import Any

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.inference.asked import Target
from ditcache_rl.inference.targets import PolicyController
from ditcache_rl.instrument.blocks import is_whole
from ditcache_rl.pipelines.identity import scheduler_identity
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Floats


def policy_scheduler(
    policy: Policy, scheduler: Any, target: Target, *, steps: int | None = None
) -> Any:
    """Make a scheduler of what a policy does under a target.

    It is saved and loaded as every scheduler of diffusers is, and needs neither policy nor cache.

    Args:
        policy: Whose schedules cache the whole denoiser.
        scheduler: That of the pipeline that the policy was made for; left as it is.
        target: What the user asks for.
        steps: Of the run; by default those that the policy was made at.

    Raises:
        ArtifactError: If the scheduler is another one.
        BudgetError: If the target is out of reach.
        ConfigError: If the policy has several sites, caches less than the whole denoiser, has no
            schedules for so many steps, or decides as it goes; if the sampler's steps are not
            linear.
    """
    from ditcache_rl.solver import collapsed_scheduler  # loads diffusers, which nothing else does

    manifest, received = policy.manifest, scheduler_identity(scheduler)
    if received != manifest.scheduler:
        raise ArtifactError(
            f"policy of another sampler: expected {manifest.scheduler}, received {received}; take "
            "the scheduler of the pipeline that the policy was made for"
        )
    if manifest.sites != 1 or not is_whole(manifest.blocks):
        raise ConfigError(
            "expected a policy of the whole denoiser as one site, received one of "
            f"{manifest.sites} sites of {manifest.blocks or 'the blocks'}: a sampler knows no "
            "blocks"
        )
    return collapsed_scheduler(scheduler, *policy_schedule(policy, target, steps=steps))


def policy_schedule(
    policy: Policy, target: Target, *, steps: int | None = None
) -> tuple[Schedule, Floats]:
    """Return the schedule that a policy follows under a target, and its (T + 1,) noise levels.

    Args:
        policy: Whose schedules they are.
        target: What the user asks for.
        steps: Of the run; by default those that the policy was made at.

    Raises:
        BudgetError: If the target is out of reach.
        ConfigError: If the policy has no schedules for so many steps, or decides as it goes.
    """
    steps = policy.steps[0] if steps is None else steps
    if steps not in policy.tables:
        raise ConfigError(
            f"expected a step count of the policy, {policy.steps}, received {steps}; others are "
            "carried over, which is worth less than a search"
        )
    sigmas = policy.tables[steps].sigmas
    return fixed_schedule(PolicyController(policy, target), sigmas), sigmas


def fixed_schedule(chosen: PolicyController, sigmas: Floats) -> Schedule:
    """Return the schedule that a policy follows at some noise levels.

    Raises:
        BudgetError: If the target is out of reach.
        ConfigError: If it decides as it goes.
    """
    controller = None if getattr(chosen.target, "over", "") == "requests" else chosen.choose(sigmas)
    if not isinstance(controller, StaticSchedule):
        raise ConfigError(
            f"expected a target that is met by a schedule to collapse, received {chosen.target}, "
            "under which this policy decides as it goes; take another target, or none of this"
        )
    return controller.schedules[0]
