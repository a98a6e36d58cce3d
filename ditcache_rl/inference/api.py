"""`cached` and `attach`: the same pipeline call as before, faster."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never, ParamSpec, TypeVar

from ditcache_rl.cache import Memory
from ditcache_rl.control import Controller, Guard
from ditcache_rl.errors import ConfigError, as_written
from ditcache_rl.files import is_there
from ditcache_rl.inference.asked import Over, Target
from ditcache_rl.inference.cache import open_cache
from ditcache_rl.inference.checks import check_kinds, check_together
from ditcache_rl.inference.run import Adapter, Listener, Run, Runner
from ditcache_rl.inference.solver import fixed_schedule
from ditcache_rl.inference.targets import PolicyController
from ditcache_rl.inference.untrained import UNTRAINED, untrained_controller
from ditcache_rl.instrument import BlockRunner, Ranks, own_scope
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.install import refuse_caches
from ditcache_rl.pipelines import check_identity
from ditcache_rl.policy import Policy, load_policy, load_schedules

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_UNLIMITED, _WATCHED = Memory(), Guard()


def attach(
    pipe: Any,
    policy: str | Path | Policy | Controller,
    *,
    speedup: float | None = None,
    latency_s: float | None = None,
    deadline_s: float | None = None,
    budget: float | None = None,
    tradeoff: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    over: Over = "request",
    memory: Memory = _UNLIMITED,
    sites: int | None = None,
    blocks: str | None = None,
    ranks: Ranks | None = None,
    adapt: Adapter | None = None,
    record: Listener | None = None,
    collapse: bool = False,
    guard: Guard | None = _WATCHED,
    **unknown: Never,
) -> Run:
    """Run every call of a pipeline under a policy, until `Run.detach`.

    Where a pipeline is attached more than once, a task or thread is served by what it attached
    last, and by what came last of all if it attached nothing.

    Args:
        pipe: A diffusers pipeline; used as it is, and left as it was.
        policy: A policy folder, the name of a shipped one, the "org/name" of one on the Hugging
            Face Hub, a schedule file, a `Policy`, a controller, or "newton": a rule for any
            pipeline and `speedup` or `budget`, untrained.
        speedup: Target; 2.0 if no target is given. By the cost model that is stored in the policy.
        latency_s: Target: seconds per call at batch 1, by the cost model; nothing looks at a clock.
        deadline_s: Target: seconds per call, kept by the clock while the machine's speed changes:
            in time with the share that the policy promises, and as good as it can be then.
        budget: Target: share of full compute, in (0, 1].
        tradeoff: Target: weight on time / reference time against quality.
        min_psnr: Target: dB against full compute that 95 % of the images reach, in least time; as
            measured on the policy's select prompts.
        min_ssim: Target: likewise, in SSIM.
        over: "requests" keeps a floor over many requests: by turns some follow a cheaper schedule,
            as many as leave 95 % of all images above it.
        memory: What the cache may take; by default the device tier alone, without limit.
        sites: Parts of the block stack, for a controller; a policy knows its own.
        blocks: Where the blocks are, for a controller, if they can't be found:
            "transformer.my_blocks". "transformer" alone caches what the transformer returns.
        ranks: Processes that run this request together and must decide the same.
        adapt: Chooses a schedule of the policy for each request in place of the target, as a
            `Bandit` does by what it learns from audits.
        record: Hears of every finished request; a `Recorder` writes them to a file.
        collapse: Run computed steps alone, as one update each: no hook, no cache, no call of the
            scheduler for what is left out, and callbacks at computed steps. For schedules of the
            whole denoiser and samplers whose steps are linear; runs that begin inside are errors.
        guard: What requests are watched for; what goes wrong is computed, and `Run.summary` says
            so. By default nothing else is changed. None for nothing.
        unknown: Refused, with the nearest name that there is.

    Raises:
        ArtifactError: If the policy is damaged, or belongs to another model. A later call raises it
            where estimates have left nothing finite, instead of drawing it.
        BudgetError: If the target is out of reach at the first step count of the policy; a request
            where it is computes everything, and `Run.summary` says so.
        ConfigError: If arguments contradict each other.
        StateError: If the pipeline recomputes its blocks for gradients, or another cache is on it.
        UnsupportedModelError: If it is no pipeline, or its blocks can't be told.
    """
    check_kinds(
        unknown,
        list(attach.__kwdefaults__ or ()),
        policy,
        memory=memory,
        record=record,
        adapt=adapt,
        ranks=ranks,
        sites=sites,
        blocks=blocks,
        collapse=collapse,
        guard=guard,
    )
    for name, denoiser in denoisers_of(pipe).items():
        refuse_caches(name, denoiser)  # before they make it look like another model
    request_bytes = memory.request_bytes(pipe.device)
    given = {
        "speedup": speedup,
        "latency_s": latency_s,
        "deadline_s": deadline_s,
        "budget": budget,
        "tradeoff": tradeoff,
        "min_psnr": min_psnr,
        "min_ssim": min_ssim,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    if isinstance(policy, str) and policy in UNTRAINED:
        policy, asked = untrained_controller(policy, asked), {}
        blocks = ",".join(denoisers_of(pipe)) if blocks is None and not sites else blocks
    elif isinstance(policy, str | Path):
        policy = open_policy(policy)
    controller: Controller
    make = _runner(collapse)
    if isinstance(policy, Policy):
        if sites is not None or blocks is not None:
            raise ConfigError(
                "a policy knows its sites and blocks: expected none, received "
                f"{as_written({'sites': sites, 'blocks': blocks})}"
            )
        check_together(ranks=ranks, adapt=adapt, deadline_s=deadline_s, over=over)
        manifest = policy.manifest
        check_identity(manifest, pipe)
        target = Target(**(asked or {"speedup": 2.0}), over=over)
        chosen = PolicyController(policy, target, ranked=ranks is not None)
        sigmas = next(iter(policy.tables.values())).sigmas
        chosen.choose(sigmas)
        if collapse:
            fixed_schedule(chosen, sigmas)
        controller, sites, blocks = chosen, manifest.sites, manifest.blocks
        make = make if adapt is None else adapt.runner(policy)
    else:
        if adapt is not None:
            raise ConfigError(
                "adapt chooses among the schedules of a policy or schedule file, received the "
                f"controller {type(policy).__name__}"
            )
        if asked or over != "request":
            received = as_written({**asked, "over": None if over == "request" else over})
            raise ConfigError(
                f"a controller decides by itself: expected no target, received {received}"
            )
        controller, sites = policy, 1 if sites is None else sites
    return Run(
        pipe,
        controller,
        open_cache(pipe, memory, sites=sites),
        make=make,
        adapt=adapt,
        record=record,
        sites=sites,
        blocks=blocks,
        request_bytes=request_bytes,
        ranks=ranks,
        guard=guard,
    )


def _runner(collapse: bool) -> Callable[..., Runner]:
    """Return what makes runners."""
    if not collapse:
        return BlockRunner
    from ditcache_rl.solver import SolverRunner  # loads diffusers, which nothing else here does

    return SolverRunner


def open_policy(source: str | Path) -> Policy:
    """Open what `load_policy` opens, or the best schedules of a file.

    Raises:
        ArtifactError: If it is damaged.
        ConfigError: If there is no such thing.
    """
    if is_there(Path(source)):
        return Policy.best_of(load_schedules(Path(source)).values())
    return load_policy(source)


def _called_like(
    model: Callable[_Arguments, Any],
) -> Callable[[Callable[..., _Result]], Callable[_Arguments, _Result]]:
    """Give a function the arguments of another one: for type checkers, editors and `help`."""

    def give(function: Callable[..., _Result]) -> Callable[_Arguments, _Result]:
        result = inspect.signature(function).return_annotation
        signature = inspect.signature(model).replace(return_annotation=result)
        function.__dict__["__signature__"] = signature
        return function

    return give


@contextmanager
@_called_like(attach)
def cached(*args: Any, **options: Any) -> Iterator[Run]:
    """Attach inside a `with` block; arguments and errors are those of `attach`.

    It serves the calls of this task or thread, and of tasks that are begun inside. Threads of an
    executor are given sessions that are made inside: `pool.submit(dc.session(pipe), prompt)`.

    ::

        with dc.cached(pipe, "shapes-ppo", speedup=2.0, memory=dc.Memory(device="70%")) as run:
            image = pipe("a large plain red star").images[0]
        print(run.summary())
    """
    with own_scope():
        run = attach(*args, **options)
    try:
        yield run
    finally:
        run.detach()
