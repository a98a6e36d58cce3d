"""Measure a policy, or a schedule file, and its opponents on test prompts."""

from __future__ import annotations

from pathlib import Path

from ditcache_rl.bench import board_of, caps_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate.methods import Family, Method, default_baselines
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.run import evaluate
from ditcache_rl.inference import PolicyController, Wish, open_policy
from ditcache_rl.pipelines import check_identity, open_configured
from ditcache_rl.policy import Policy, ScheduleFile
from ditcache_rl.types import UNSEEN, Floats, Mode, Progress


def evaluate_policy(
    source: Path,
    config: EnvConfig,
    *,
    prompts: int,
    steps: int | None,
    progress: Progress = UNSEEN,
) -> Results:
    """Measure a policy at every budget of the environment.

    Args:
        source: The policy's folder, or a schedule file, all of whose schedules are measured.
        config: The environment whose test prompts are drawn.
        prompts: How many of them.
        steps: Denoising steps; None for those that the policy was trained at.
        progress: Hears how far it is.

    Raises:
        ConfigError: If there are fewer test prompts, or the file has no schedule for the steps.
        BudgetError: If the policy has none for a budget.
        ArtifactError: If the policy is damaged or made for another model.
    """
    policy = open_policy(source)
    texts = config.read_prompts("test")
    if not 1 <= prompts <= len(texts):
        raise ConfigError(
            f"--prompts must lie between 1 and the {len(texts)} of {config.prompts.test}, "
            f"received {prompts}"
        )
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps must be >= 1, received {steps}")
    if isinstance(policy, ScheduleFile):
        chosen = steps or policy.steps[0]
        ours = schedule_methods(policy, steps=chosen)
        model, scheduler, blocks = policy.model, policy.scheduler, policy.blocks
    else:
        chosen = steps or policy.manifest.steps[0]
        model, scheduler = policy.manifest.model, policy.manifest.scheduler
        blocks = policy.manifest.blocks
    pipe = open_configured(config.pipeline)
    check_identity(model, scheduler, pipe)
    if isinstance(policy, Policy):
        ours = policy_methods(policy, config, board_of(config, pipe, steps=chosen).sigmas())
    methods = [*ours, *default_baselines(chosen, blocks)]
    return evaluate(
        pipe,
        methods,
        texts[:prompts],
        seeds=[config.seeds.test + index for index in range(prompts)],
        steps=chosen,
        call=config.pipeline.call,
        progress=progress,
        caps=caps_of(config, pipe),
    )


def policy_methods(policy: Policy, config: EnvConfig, sigmas: Floats) -> list[Method]:
    """List the policy at every budget, and its static schedule beside it where a network decides.

    Args:
        policy: What is evaluated.
        config: Names the budgets.
        sigmas: (steps + 1,) noise levels of the run.

    Raises:
        BudgetError: If the policy has no schedule for one of them.
    """
    methods: list[Method] = []
    steps = len(sigmas) - 1
    used = policy.manifest.adaptive.get(str(steps), [])
    sites, blocks = policy.manifest.sites, policy.manifest.blocks
    for share in config.targets.budgets:
        wish, target = Wish(budget=share), f"budget {share:g}"
        learned = int(share * steps * sites + 1e-9) in used
        shipped = PolicyController(policy, wish)
        shipped.choose(sigmas)
        family: Family = "learned" if learned else "static"
        methods.append(Method("policy", family, target, shipped, sites, blocks))
        if learned:
            schedule = PolicyController(policy, wish, adaptive=False)
            methods.append(Method("its schedule", "static", target, schedule, sites, blocks))
    return methods


def schedule_methods(file: ScheduleFile, *, steps: int) -> list[Method]:
    """List the schedules of a file for a step count.

    Raises:
        ConfigError: If it has none.
    """
    found = [schedule for schedule in file.schedules if schedule.steps == steps]
    if not found:
        raise ConfigError(
            f"expected --steps among {file.steps} as in the schedule file, received {steps}"
        )
    methods = []
    for schedule in found:
        computed = int((schedule.table == Mode.COMPUTE).sum())
        target = f"{computed}/{steps * file.sites} computed"
        controller = StaticSchedule(schedule.table, schedule.fitted)
        methods.append(
            Method(schedule.method, "static", target, controller, file.sites, file.blocks)
        )
    return methods
