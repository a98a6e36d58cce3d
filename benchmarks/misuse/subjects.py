"""Three tiny pipelines, how they are called, and what is done to their models."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import diffusers
import torch
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.zoo.draws import Draw
from benchmarks.zoo.pipelines import PIPELINES, build
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EveryK, FBCache
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import denoisers_of

#: Streams side by side and guidance in one batch; blocks that one forward pass tells; a U-Net whose
#: scheduler counts no steps.
KINDS = ("StableDiffusion3Pipeline", "ZImagePipeline", "StableDiffusionPipeline")
_FLOW = (
    lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
)
_SCHEDULERS: dict[str, tuple[Callable[[], Any], ...]] = {
    "StableDiffusion3Pipeline": _FLOW,
    "ZImagePipeline": _FLOW,
    "StableDiffusionPipeline": (
        lambda: diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        lambda: diffusers.EulerDiscreteScheduler(),
    ),
}
STEPS = (3, 4)

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class Ask(NamedTuple):
    """What a call asks for."""

    seed: int
    large: bool
    steps: int


def scheduler_of(kind: str, number: int) -> Any:
    """Make the scheduler of a number, 0 or 1."""
    return _SCHEDULERS[kind][number]()


@lru_cache
def pristine(kind: str) -> Any:
    """Build a pipeline; nobody attaches, calls or changes it."""
    pipe = build(kind)
    pipe.scheduler = scheduler_of(kind, 0)
    return pipe


def denoiser_in(pipe: Any) -> Any:
    """Return the only denoiser of a pipeline."""
    (denoiser,) = denoisers_of(pipe).values()
    return denoiser


def draw(kind: str, pipe: Any, ask: Ask, callback: Callback | None = None) -> Tensor:
    """Call a pipeline; return the final latents."""
    facts = PIPELINES[kind]
    given = facts.call(Draw([ask.seed]), facts.sides[ask.large])
    dtype = denoiser_in(pipe).dtype
    latents = pipe(
        **{name: _cast(value, dtype) for name, value in given.items()},
        num_inference_steps=ask.steps,
        generator=torch.Generator().manual_seed(ask.seed),
        output_type=facts.output,
        return_dict=False,
        callback_on_step_end=callback,
    )[0]
    found: Tensor = latents.detach().clone()
    return found


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_cast(one, dtype) for one in value]
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floats else value


def _weight(pipe: Any) -> nn.Parameter:
    """Return a weight of the middle of a denoiser, which every adapter leaves where it is."""
    named = [
        p for name, p in denoiser_in(pipe).named_parameters() if "lora" not in name and p.ndim > 1
    ]
    found: nn.Parameter = named[len(named) // 2]
    return found


def _edit(pipe: Any) -> None:
    with torch.no_grad():
        _weight(pipe).mul_(1.5)


def _edit_data(pipe: Any) -> None:
    _weight(pipe).data.add_(0.05)


def _adapt(pipe: Any) -> None:
    if "one" not in getattr(denoiser_in(pipe), "peft_config", {}):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            adapter = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
            denoiser_in(pipe).add_adapter(adapter, "one")
            denoiser_in(pipe).to(denoiser_in(pipe).dtype)


def _weigh(weight: float) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        if "one" in getattr(denoiser_in(pipe), "peft_config", {}):
            denoiser_in(pipe).set_adapters(["one"], [weight])

    return change


def _remove(pipe: Any) -> None:
    if "one" in getattr(denoiser_in(pipe), "peft_config", {}):
        denoiser_in(pipe).delete_adapters(["one"])


def _compile(pipe: Any) -> None:
    for part in denoiser_in(pipe).children():
        for block in part if isinstance(part, nn.ModuleList) else ():
            block.compile()


#: What is done to a model, by name; the same twice in a row is something else the second time.
CHANGES: dict[str, Callable[[Any], None]] = {
    "edit": _edit,
    "edit data": _edit_data,
    "adapter": _adapt,
    "adapter at half": _weigh(0.5),
    "adapter removed": _remove,
    "float64": lambda pipe: pipe.to(torch.float64),
    "float32": lambda pipe: pipe.to(torch.float32),
    "to": lambda pipe: pipe.to("cpu"),
    "compile": _compile,
}
COMPILE = "compile"


class Way(NamedTuple):
    """What a pipeline is attached under."""

    make: Callable[[], Controller]
    whole: bool = False
    """The denoiser is one site."""


#: By name; the first must draw the plain image.
WAYS: dict[str, Way] = {
    "all-compute": Way(AllCompute),
    "every second": Way(lambda: EveryK(2)),
    "every third, forecast": Way(lambda: EveryK(3, order=1)),
    "every second, whole": Way(lambda: EveryK(2), whole=True),
    "first block": Way(lambda: FBCache(0.3)),
}
PLAIN = next(iter(WAYS))


def ways_of(kind: str) -> list[str]:
    """List the ways that a pipeline can be attached: a U-Net's one site has no block to probe."""
    return list(WAYS)[: -1 if kind == "StableDiffusionPipeline" else None]


class Question(NamedTuple):
    """All that an image depends on."""

    kind: str
    changes: tuple[str, ...]
    """Of the model, in their order."""
    scheduler: int
    ask: Ask
    way: str = PLAIN
    """Of `WAYS`."""
    event: tuple[str, int] | None = None
    """A change, or "interrupt", and the step after which it happens."""


def options_of(kind: str, way: str) -> dict[str, Any]:
    """Return what a pipeline is attached with."""
    return {"blocks": next(iter(denoisers_of(pristine(kind))))} if WAYS[way].whole else {}


def at(step: int, happen: Callable[[Any], None]) -> Callback:
    """Make a callback that lets something happen after a step."""

    def callback(pipe: Any, now: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if now == step:
            happen(pipe)
        return tensors

    return callback


def interrupt(pipe: Any) -> None:
    """Ask a pipeline to pass over the steps that are left."""
    pipe._interrupt = True


class Truths:
    """What pipelines draw that nothing else has happened to.

    Plain images come from pipelines that were never attached, the others from those that are
    attached for one call.
    """

    def __init__(self) -> None:
        self._known: dict[Question, Tensor] = {}
        self._pipes: OrderedDict[tuple[str, tuple[str, ...]], Any] = OrderedDict()

    def image(self, question: Question) -> Tensor:
        """Return the image."""
        if question not in self._known:
            self._known[question] = self._drawn(question)
        return self._known[question]

    def pipe(self, kind: str, changes: tuple[str, ...]) -> Any:
        """Return a plain pipeline with a changed model; it is shared."""
        key = kind, changes
        if key not in self._pipes:
            pipe = copy.deepcopy(pristine(kind))
            for change in changes:
                CHANGES[change](pipe)
            self._pipes[key] = pipe
            if len(self._pipes) > _KEPT:
                self._pipes.popitem(last=False)
        return self._pipes[key]

    def _drawn(self, question: Question) -> Tensor:
        kind, event = question.kind, question.event
        pipe = self.pipe(kind, question.changes)
        if event is not None or question.way != PLAIN:
            pipe = copy.deepcopy(pipe)
        pipe.scheduler = scheduler_of(kind, question.scheduler)
        callback = None
        if event is not None:
            callback = at(event[1], CHANGES.get(event[0], interrupt))
        if question.way == PLAIN:
            return draw(kind, pipe, question.ask, callback)
        controller, options = WAYS[question.way].make(), options_of(kind, question.way)
        with BlockRunner(pipe, controller, TieredCache(), **options):
            return draw(kind, pipe, question.ask, callback)


#: Plain pipelines that are kept, of about a megabyte.
_KEPT = 60
