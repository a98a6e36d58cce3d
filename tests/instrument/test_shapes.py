"""Requests whose tensors change their shapes on the way, as those of edits with a KV cache do."""

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import (
    ActionSpace,
    Controller,
    EasyCache,
    FBCache,
    NetworkController,
    PolicyNetwork,
    StaticSchedule,
    TeaCache,
)
from ditcache_rl.control.published import AdaCache, DiCache, MagCache, SeaCache
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo, Tier
from tests.kit.pipelines import build_tiny_pipe

STEPS = 8
#: Tokens of each step: latents, and what is edited.
FIRST = [24] + [16] * 7
LATER = [16] * 3 + [24] * 5
OFTEN = [24, 16] * 4


class Edit:
    """Denoises tokens, at some steps with others behind them."""

    def __init__(self, tokens: list[int], *, branches: int = 1) -> None:
        pipe = build_tiny_pipe()
        self.transformer, self.scheduler = pipe.transformer, copy.deepcopy(pipe.scheduler)
        self.device = torch.device("cpu")
        self._tokens, self._branches = tokens, branches

    @torch.no_grad()
    def __call__(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        width = self.transformer.config.in_channels
        everything = torch.randn(1, max(self._tokens), width, generator=draw)
        latents, conditions = everything[:, : min(self._tokens)], []
        for length in range(5, 5 + self._branches):  # of the prompt
            text = torch.randn(1, length, self.transformer.config.joint_attention_dim)
            conditions.append(text.normal_(generator=draw))
        pooled = torch.zeros(1, self.transformer.config.pooled_projection_dim)
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=0.5)
        for step, t in enumerate(self.scheduler.timesteps):
            behind = everything[:, latents.shape[1] : self._tokens[step]]
            tokens = torch.cat([latents, behind], dim=1)
            noise = torch.zeros_like(latents)
            for text in conditions:
                predicted = self.transformer(
                    hidden_states=tokens,
                    encoder_hidden_states=text,
                    pooled_projections=pooled,
                    timestep=t[None] / 1000,
                    guidance=torch.ones(1),
                    img_ids=torch.arange(tokens.shape[1])[:, None].repeat(1, 3),
                    txt_ids=torch.zeros(text.shape[1], 3),
                    return_dict=False,
                )[0]
                noise = noise + predicted[:, : latents.shape[1]] / len(conditions)
            latents = self.scheduler.step(noise, t, latents, return_dict=False)[0]
        return latents


class Greedy:
    """Somebody else's: compares latents with those of the step before, and reuses all it may."""

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        self._before: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        moved = None if self._before is None else float((info.latents - self._before).abs().sum())
        self._before = info.latents
        modes = np.full((1, info.run.sites), Mode.COMPUTE if moved is None else Mode.REUSE)
        return Decision(modes.astype(np.int8), np.full(modes.shape, Tier.DEVICE, dtype=np.int8))


def network(computes: int = 4) -> NetworkController:
    actions = ActionSpace.of(1, (Tier.DEVICE, Tier.DROP))
    net = PolicyNetwork(len(actions.schema()) - actions.logits, actions.logits)
    modes = np.ones((STEPS, 1), dtype=np.int8)
    modes[:computes] = Mode.COMPUTE
    return NetworkController(
        actions, net, schedule=Schedule(modes), computes=computes, latency_weight=0.0
    )


ONLINE: dict[str, Callable[[float], Controller]] = {
    "FBCache": FBCache,
    "EasyCache": lambda threshold: EasyCache(threshold, start=0.0, end=1.0),
    "TeaCache": TeaCache,
    "DiCache": DiCache,
    "AdaCache": lambda threshold: AdaCache(threshold + 1e-9),
    "MagCache": lambda threshold: MagCache(threshold, [1.1]),
    "SeaCache": lambda threshold: SeaCache(threshold, lay_out=lambda x: x[:, None, None]),
    "another": lambda threshold: Greedy(),
    "network": lambda threshold: network(),
}


def play(pipe: Edit, controller: Controller) -> tuple[Tensor, list[int]]:
    """Draw under a controller; return the latents and the modes of every step."""
    logs: list[RequestLog] = []
    cache = TieredCache()
    with BlockRunner(pipe, controller, cache, on_finish=logs.append):
        latents = pipe()
    assert torch.isfinite(latents).all()
    assert cache.used_bytes == 0
    return latents, logs[0].modes[:, 0, 0].tolist()


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("tokens", [FIRST, LATER, OFTEN], ids=["first", "later", "often"])
@pytest.mark.parametrize("name", ONLINE)
def test_a_step_with_other_shapes_computes(name: str, tokens: list[int], branches: int) -> None:
    _, modes = play(Edit(tokens, branches=branches), ONLINE[name](1e6))

    changes = [step for step, (a, b) in enumerate(itertools.pairwise(tokens), 1) if a != b]
    assert all(modes[step] == Mode.COMPUTE for step in (0, *changes))
    if tokens is not OFTEN:
        assert Mode.REUSE in modes or Mode.FORECAST1 in modes


@pytest.mark.parametrize("name", ["FBCache", "EasyCache", "TeaCache", "DiCache", "SeaCache"])
@pytest.mark.parametrize("tokens", [FIRST, LATER], ids=["first", "later"])
def test_a_memory_starts_over_once_and_no_more(name: str, tokens: list[int]) -> None:
    _, modes = play(Edit(tokens), ONLINE[name](1e6))
    _, plain = play(Edit([16] * STEPS), ONLINE[name](1e6))

    change = tokens.index(tokens[-1])
    expected = plain[:change] + plain[: STEPS - change]
    if name in ("TeaCache", "SeaCache"):
        expected[-1] = Mode.COMPUTE  # as they do with the last step of every request
    assert modes == expected


@pytest.mark.parametrize(
    "name", ["FBCache", "EasyCache", "TeaCache", "DiCache", "MagCache", "SeaCache"]
)
def test_with_no_tolerance_it_is_the_plain_pipeline(name: str) -> None:
    pipe = Edit(FIRST, branches=2)
    plain = pipe()

    drawn, modes = play(pipe, ONLINE[name](0.0))

    assert set(modes) == {Mode.COMPUTE}
    assert torch.equal(drawn, plain)


@pytest.mark.parametrize("tokens", [FIRST, LATER], ids=["first", "later"])
def test_a_network_spends_what_it_may_whatever_changes(tokens: list[int]) -> None:
    _, modes = play(Edit(tokens), network(4))

    assert modes.count(Mode.COMPUTE) == 4


def test_a_schedule_goes_on_where_histories_allow() -> None:
    modes = np.array([0, 1, 1, 0, 1, 1, 1, 1], dtype=np.int8)[:, None]

    _, followed = play(Edit(FIRST), StaticSchedule.of(modes))

    assert followed == [0, 0, 1, 0, 1, 1, 1, 1]
