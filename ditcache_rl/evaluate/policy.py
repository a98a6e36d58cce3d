"""Measure a policy, or a schedule file, and its opponents on test prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ditcache_rl.bench import Board, caps_of
from ditcache_rl.config import EnvConfig, check_within
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.evaluate.methods import OURS, Family, Method, default_baselines
from ditcache_rl.evaluate.results import Results
from ditcache_rl.evaluate.run import KEPT_PROMPTS, evaluate
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.pipelines import open_matching
from ditcache_rl.policy import Policy, load_policy, load_schedules
from ditcache_rl.schedules import computes_of
from ditcache_rl.types import MOST_STEPS, UNSEEN, Floats, Progress
from ditcache_rl.world import DeadlineController


def evaluate_policy(
    source: Path,
    config: EnvConfig,
    *,
    prompts: int,
    steps: int | None,
    deadlines: Sequence[float] = (),
    only: Collection[str] | None = None,
    progress: Progress = UNSEEN,
    kept: int = KEPT_PROMPTS,
    pictured: Collection[Family] | None = OURS,
) -> Results:
    """Measure a policy at every budget of the environment.

    Args:
        source: The policy's folder, or a schedule file, all of whose schedules are measured.
        config: The environment whose test prompts are drawn.
        prompts: How many of them.
        steps: Denoising steps; None for those that the policy was trained at.
        deadlines: Seconds that a call may take, by the clock; each is measured besides.
        only: Names of the methods to measure; None for all.
        progress: Hears how far it is.
        kept: Prompts whose images are in the results, the first ones.
        pictured: Families whose images are in the results, as of `evaluate`.

    Raises:
        ConfigError: If there are fewer test prompts, the file has no schedule for the steps, or a
            method is unknown.
        BudgetError: If the policy has none for a budget, or keeps no deadlines.
        ArtifactError: If the policy is damaged or made for another model.
    """
    found = load_schedules(source) if source.is_file() else {"policy": load_policy(source)}
    texts = config.read_prompts("test")
    if not 1 <= prompts <= len(texts):
        raise ConfigError(
            f"--prompts must lie between 1 and the {len(texts)} of {config.prompts.test}, "
            f"received {prompts}"
        )
    if steps is not None:
        check_within("--steps", steps, 1, MOST_STEPS)
    policy = next(iter(found.values()))
    chosen, manifest = steps or policy.steps[0], policy.manifest
    if source.is_file():
        ours = schedule_methods(found, steps=chosen)
    pipe = open_matching(config.pipeline, manifest)
    sigmas = Board.of(config, pipe, steps=chosen).sigmas()  # refuses what the pipeline does
    if not source.is_file():
        ours = policy_methods(policy, config, sigmas)
    timed = deadline_methods(policy, deadlines, sigmas)
    methods = [*ours, *timed, *default_baselines(chosen, manifest.blocks)]
    if only is not None:
        methods = _named(methods, only)
    results = evaluate(
        pipe,
        methods,
        texts[:prompts],
        seeds=[config.seeds.test + index for index in range(prompts)],
        steps=chosen,
        call=config.pipeline.call,
        progress=progress,
        caps=caps_of(config, pipe),
        kept=kept,
        pictured=pictured,
    )
    return replace(results, profile=manifest.profile)


def _named(methods: Sequence[Method], names: Collection[str]) -> list[Method]:
    known = list(dict.fromkeys(method.name for method in methods))
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--methods must be among {', '.join(map(repr, known))}, received {name!r}."
                f"{closest(name, known)}"
            )
    return [method for method in methods if method.name in names]


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
    steps, manifest = len(sigmas) - 1, policy.manifest
    used = manifest.network.adaptive.get(str(steps), []) if manifest.network else []
    for share in config.targets.budgets:
        target, name = Target(budget=share), f"budget {share:g}"
        learned = computes_of(share, steps * manifest.sites) in used
        shipped = PolicyController(policy, target)
        shipped.choose(sigmas)
        family: Family = "learned" if learned else "static"
        where = (manifest.sites, manifest.blocks)
        methods.append(Method("policy", family, name, shipped, *where))
        if learned:
            schedule = PolicyController(policy, target, adaptive=False)
            methods.append(Method("its schedule", "static", name, schedule, *where))
    return methods


def deadline_methods(policy: Policy, deadlines: Sequence[float], sigmas: Floats) -> list[Method]:
    """List the policy at every deadline, and beside it the schedules that its agent started from.

    Args:
        policy: What is evaluated.
        deadlines: Seconds that a call may take.
        sigmas: (steps + 1,) noise levels of the run.

    Raises:
        BudgetError: If the policy keeps no deadlines in such a run.
        ConfigError: If a deadline is not above zero.
    """
    methods: list[Method] = []
    for limit in deadlines:
        shipped = PolicyController(policy, Target(deadline_s=limit))
        shipped.choose(sigmas)
        assert policy.pacer is not None, "it was chosen"
        prior = DeadlineController(policy.pacer, limit, decide=policy.pacer.prior)
        for name, controller in (("policy", shipped), ("static by speed at the start", prior)):
            methods.append(
                Method(
                    f"{name}, deadline",
                    "deadline",
                    f"{limit:g} s",
                    controller,
                    policy.manifest.sites,
                    policy.manifest.blocks,
                    deadline_s=limit,
                )
            )
    return methods


def schedule_methods(found: Mapping[str, Policy], *, steps: int) -> list[Method]:
    """List the schedules of a file for a step count.

    Raises:
        ConfigError: If it has none.
    """
    methods = [
        Method(
            method,
            "static",
            f"{computes}/{table.site_steps} computed",
            StaticSchedule(scored.schedule),
            policy.manifest.sites,
            policy.manifest.blocks,
        )
        for method, policy in found.items()
        if (table := policy.tables.get(steps)) is not None
        for computes, scored in table.items()
    ]
    if not methods:
        known = sorted({count for policy in found.values() for count in policy.steps})
        raise ConfigError(
            f"expected --steps among {known} as in the schedule file, received {steps}"
        )
    return methods
