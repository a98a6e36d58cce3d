"""A run is one passage through the timesteps, and begins when they are set for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import (
    AllCompute,
    Controller,
    EasyCache,
    EveryK,
    FBCache,
    StaticSchedule,
    uniform_decision,
)
from ditcache_rl.control.published import AdaCache, DiCache, MagCache, SeaCache, square_tokens
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.instrument.notes import UNSET
from ditcache_rl.schedules import Scored
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import CALL, PROMPTS, STEPS

MODES = np.array([0, 1, 0, 2, 0, 3], dtype=np.int8)
#: Where a controller decides.
WHERE: dict[str, dict[str, Any]] = {
    "blocks": {},
    "whole": {"blocks": "transformer"},
}


class Greedy:
    """Reuses whatever it may."""

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        pass

    def decide(self, info: StepInfo) -> Decision:
        return uniform_decision(info.run, Mode.REUSE)


CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "greedy": Greedy,
    "schedule": lambda: StaticSchedule.of(MODES[:, None]),
    "every 3": lambda: EveryK(3, order=1),
    "FBCache": lambda: FBCache(5.0),
    "EasyCache": lambda: EasyCache(1.0, start=0.0, end=1.0),
    "DiCache": lambda: DiCache(1.0),
    "AdaCache": lambda: AdaCache(1.0),
    "MagCache": lambda: MagCache(1.0, [1.1]),
    "SeaCache": lambda: SeaCache(1.0, lay_out=square_tokens),
}


#: Every controller where it can decide: some look at the first block.
PLACED = [
    (name, where)
    for name in CONTROLLERS
    for where in WHERE
    if where == "blocks" or name not in ("FBCache", "DiCache")
]


class Once(FluxPipeline):  # type: ignore[misc]
    """The plain pipeline, which draws a prompt with one more seed at every call."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        drawn: Tensor = (
            super()
            .__call__(
                prompt,
                num_inference_steps=steps,
                generator=generator,
                output_type="latent",
                **CALL,
            )
            .images
        )
        return drawn


class Twice(Once):
    """Draws twice with the same steps and other noise, as pipelines do that refine or go on."""

    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        first = super().__call__(prompt, generator, steps)
        return torch.cat([first, super().__call__(prompt, generator, steps)])


class Looking(Once):
    """Looks at a condition with the transformer before its steps are set, as edit pipelines do."""

    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        with torch.no_grad():
            look(self.transformer, torch.ones(1, 20, self.transformer.config.in_channels))
        return super().__call__(prompt, generator, steps)


class Rewinding(Once):
    """Goes through its timesteps twice, and sets them once."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.5)
        drawn = []
        for _ in range(2):
            latents = torch.randn(1, 16, self.transformer.config.in_channels, generator=generator)
            self.scheduler._step_index = None
            for t in self.scheduler.timesteps:
                noise = look(self.transformer, latents, t)
                latents = self.scheduler.step(noise, t, latents, return_dict=False)[0]
            drawn.append(latents)
        return torch.cat(drawn)


class Unset(Once):
    """Leaves the timesteps as it finds them."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        latents = torch.randn(1, 16, self.transformer.config.in_channels, generator=generator)
        for t in torch.linspace(1000, 100, steps):
            latents = latents - look(self.transformer, latents, t) / steps
        return latents


def look(transformer: Any, latents: Tensor, t: Any = 0.0) -> Tensor:
    """Call a FLUX transformer with a condition that is always the same."""
    tokens, config = latents.shape[1], transformer.config
    text = torch.linspace(-1, 1, 3 * config.joint_attention_dim)
    seen: Tensor = transformer(
        hidden_states=latents,
        encoder_hidden_states=text.reshape(1, 3, -1),
        pooled_projections=torch.zeros(1, config.pooled_projection_dim),
        timestep=torch.as_tensor(t).reshape(1) / 1000,
        guidance=torch.ones(1),
        img_ids=torch.arange(tokens)[:, None].repeat(1, 3),
        txt_ids=torch.zeros(3, 3),
        return_dict=False,
    )[0]
    return seen


class Played(NamedTuple):
    """What came of calls."""

    drawn: list[Tensor]
    logs: list[RequestLog]
    notes: list[str]

    @property
    def modes(self) -> list[list[int]]:
        return [log.modes[:, 0, 0].tolist() for log in self.logs]


def play(
    pipe: Any, kind: type, controller: Controller, *, calls: int = 1, **options: Any
) -> Played:
    """Draw with a class of pipelines under a controller; one generator for all calls."""
    logs: list[RequestLog] = []
    cache, plain = TieredCache(), type(pipe)
    steps = {name: options.pop(name) for name in ("steps",) if name in options}
    pipe.__class__ = kind
    try:
        with BlockRunner(pipe, controller, cache, on_finish=logs.append, **options) as runner:
            drawn = draw(pipe, calls=calls, **steps)
    finally:
        pipe.__class__ = plain
    assert cache.used_bytes == 0
    return Played(drawn, logs, runner.notes)


def draw(pipe: Any, *, calls: int = 1, **more: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [pipe(PROMPTS[0], generator, **more) for _ in range(calls)]


@pytest.fixture
def plainly(tiny_pipe: Any) -> Callable[[type], list[Tensor]]:
    """What a class of pipelines draws that was never attached."""

    def drawn(kind: type) -> list[Tensor]:
        plain, tiny_pipe.__class__ = type(tiny_pipe), kind
        try:
            return draw(tiny_pipe)
        finally:
            tiny_pipe.__class__ = plain

    return drawn


@pytest.mark.parametrize(("name", "where"), PLACED)
def test_a_second_pass_is_a_run_of_its_own(name: str, where: str, tiny_pipe: Any) -> None:
    alone = play(tiny_pipe, Once, CONTROLLERS[name](), calls=2, **WHERE[where])

    both = play(tiny_pipe, Twice, CONTROLLERS[name](), **WHERE[where])

    assert torch.equal(both.drawn[0], torch.cat(alone.drawn))
    assert both.modes == alone.modes
    assert len(both.logs) == 2


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_step_that_goes_back_begins_a_run(name: str, tiny_pipe: Any) -> None:
    played = play(tiny_pipe, Rewinding, CONTROLLERS[name]())

    first, second = played.modes
    assert first[0] == second[0] == Mode.COMPUTE
    if name in ("greedy", "schedule", "every 3"):
        assert first == second


@pytest.mark.parametrize("kind", [Twice, Rewinding, Looking, Unset])
@pytest.mark.parametrize("where", WHERE)
def test_whatever_its_passes_all_compute_is_the_plain_pipeline(
    kind: type, where: str, tiny_pipe: Any, plainly: Callable[[type], list[Tensor]]
) -> None:
    (expected,) = plainly(kind)

    for controller in (AllCompute(), EveryK(1)):
        (drawn,) = play(tiny_pipe, kind, controller, **WHERE[where]).drawn
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize(("name", "where"), PLACED)
def test_a_call_before_the_loop_begins_no_run(name: str, where: str, tiny_pipe: Any) -> None:
    alone = play(tiny_pipe, Once, CONTROLLERS[name](), calls=2, **WHERE[where])

    looking = play(tiny_pipe, Looking, CONTROLLERS[name](), calls=2, **WHERE[where])

    assert torch.equal(torch.cat(looking.drawn), torch.cat(alone.drawn))
    assert looking.modes == alone.modes
    assert not looking.notes


@pytest.mark.parametrize("kind", [Twice, Looking])
@pytest.mark.parametrize(
    ("target", "adaptive"),
    [(Target(budget=0.5), False), (Target(min_psnr=20.0), False), (Target(budget=0.5), True)],
    ids=["schedule", "floor", "network"],
)
def test_a_policy_serves_every_pass_and_none_before(
    kind: type, target: Target, adaptive: bool, tiny_pipe: Any
) -> None:
    policy = untrained_policy(tiny_pipe, CALL, steps=(STEPS,))
    table = policy.tables[STEPS]
    measured = {computes: Scored(*table[computes][:3], 20.0, 0.9) for computes in (3, STEPS)}
    tables = {STEPS: table.with_lines(measured)}
    policy = replace(policy, tables=tables, safe=tables)
    controller = PolicyController(policy, target, adaptive=adaptive)
    alone = play(tiny_pipe, Once, controller, calls=2 if kind is Twice else 1)

    played = play(tiny_pipe, kind, controller)

    assert torch.equal(played.drawn[0], torch.cat(alone.drawn))
    assert played.modes == alone.modes
    assert not controller.notes()


def test_where_no_timesteps_are_set_everything_is_computed_and_said(
    tiny_pipe: Any, plainly: Callable[[type], list[Tensor]]
) -> None:
    (expected,) = plainly(Unset)

    played = play(tiny_pipe, Unset, EveryK(2), calls=1)

    assert torch.equal(played.drawn[0], expected)
    assert (played.logs, played.notes) == ([], [UNSET])


def test_a_loop_on_timesteps_of_before_is_a_run_from_its_second_step(tiny_pipe: Any) -> None:
    class Later(Rewinding):
        def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
            self.scheduler.set_timesteps = lambda **_: None
            try:
                drawn: Tensor = super().__call__(prompt, generator, steps)
            finally:
                del self.scheduler.set_timesteps  # that of its class again
            return drawn

    tiny_pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=0.5)

    played = play(tiny_pipe, Later, EveryK(3))

    assert played.modes == [[-1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1]]
