"""What can't be read again is freed: branches that nobody calls any more."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, EveryK, FBCache
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Mode
from tests.instrument.test_model_changes import schedule
from tests.kit.pipelines import GUIDANCE, build_tiny_pipe, draw

STEPS = 16


def play(
    pipe: Any, controller: Controller, *, blocks: str | None = None, **call: Any
) -> tuple[Tensor, RequestLog]:
    logs, cache = list[RequestLog](), TieredCache()
    with BlockRunner(pipe, controller, cache, blocks=blocks, on_finish=logs.append):
        latents = draw(pipe, **{"steps": STEPS, **call})
    assert cache.used_bytes == 0
    return latents, logs[0]


def prompts(embeds: Callable[[int, Tensor], Tensor], last: int = STEPS) -> dict[str, Any]:
    """Return a call whose prompt is another one after every step."""

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": embeds(step, tensors["prompt_embeds"])} if step < last else {}

    return {
        "callback_on_step_end": callback,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }


def fresh(step: int, before: Tensor) -> Tensor:
    return before * 1.01


def held() -> Callable[[int, Tensor], Tensor]:
    """Hold every prompt to the end, as a pipeline does that knows all of them beforehand."""
    kept: list[Tensor] = []

    def embeds(step: int, before: Tensor) -> Tensor:
        kept.append(before * 1.01)
        return kept[-1]

    return embeds


def alternating() -> Callable[[int, Tensor], Tensor]:
    kept: list[Tensor] = []

    def embeds(step: int, before: Tensor) -> Tensor:
        kept.append(before * 2 if step == 0 else kept[step - 2] if step > 1 else kept[0] / 2)
        return kept[-1]

    return embeds


MAKE: dict[str, Callable[[], Controller]] = {
    "EveryK": lambda: EveryK(2),
    "forecast": lambda: EveryK(4, order=2),
    "compute": lambda: EveryK(STEPS),
    "FBCache": lambda: FBCache(1e6),
    "always": lambda: FBCache(0.0),
}


@pytest.fixture(scope="module")
def peak(tiny_pipe: Any) -> Callable[[str, str | None, bool], int]:
    """Tell the most bytes of a call whose prompt stays."""

    @cache
    def of(kind: str, blocks: str | None, guided: bool) -> int:
        call = GUIDANCE if guided else {}
        return play(tiny_pipe, MAKE[kind](), blocks=blocks, **call)[1].peak_bytes

    return of


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("blocks", [None, "transformer"])
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("embeds", [lambda: fresh, held], ids=["fresh", "held"])
def test_other_prompts_at_every_step_take_no_more_than_one(
    kind: str,
    blocks: str | None,
    guided: bool,
    embeds: Callable[[], Any],
    tiny_pipe: Any,
    peak: Callable[[str, str | None, bool], int],
) -> None:
    if blocks and MAKE[kind]().probe_blocks:
        pytest.skip("it looks into the blocks")
    call = GUIDANCE if guided else {}

    _, log = play(tiny_pipe, MAKE[kind](), blocks=blocks, **call, **prompts(embeds()))

    assert log.peak_bytes <= peak(kind, blocks, guided)


def test_other_prompts_change_no_image() -> None:
    expected = draw(build_tiny_pipe(), steps=STEPS, **prompts(fresh))

    latents, log = play(build_tiny_pipe(), EveryK(2), **prompts(fresh))

    assert (log.modes == Mode.COMPUTE).all()
    assert torch.equal(latents, expected)


def test_a_prompt_that_settles_is_reused_from_then_on() -> None:
    _, log = play(build_tiny_pipe(), EveryK(4), **prompts(fresh, last=5))

    assert log.modes[:, 0, 0].tolist() == [0] * 6 + [1, 1] + [0, 1, 1, 1] * 2


def test_prompts_that_take_turns_are_reused_once_they_have_come_back() -> None:
    _, log = play(build_tiny_pipe(), schedule(0, *[1] * (STEPS - 1)), **prompts(alternating()))

    assert log.modes[:, 0, 0].tolist() == [0] * 3 + [1] * (STEPS - 3)


class Guided:
    """Calls branches by number, at every step those that it is told to."""

    def __init__(self, steps: list[list[int]]) -> None:
        pipe = build_tiny_pipe()
        self.transformer, self.scheduler = pipe.transformer, pipe.scheduler
        self.device, self._steps = torch.device("cpu"), steps
        width = self.transformer.config.joint_attention_dim
        drawn = torch.Generator().manual_seed(0)
        self._texts = [torch.randn(1, 5, width, generator=drawn) for _ in range(9)]

    @torch.no_grad()
    def __call__(self) -> Tensor:
        config = self.transformer.config
        latents = torch.randn(1, 16, config.in_channels, generator=torch.Generator().manual_seed(1))
        self.scheduler.set_timesteps(len(self._steps), mu=0.5)
        for t, branches in zip(self.scheduler.timesteps, self._steps, strict=True):
            found = [
                self.transformer(
                    hidden_states=latents,
                    encoder_hidden_states=self._texts[branch],
                    pooled_projections=torch.zeros(1, config.pooled_projection_dim),
                    timestep=t[None] / 1000,
                    guidance=torch.ones(1),
                    img_ids=torch.zeros(16, 3),
                    txt_ids=torch.zeros(5, 3),
                    return_dict=False,
                )[0]
                for branch in branches
            ]
            latents = self.scheduler.step(sum(found), t, latents, return_dict=False)[0]
        return latents


def computed(steps: list[list[int]]) -> tuple[dict[int, list[int]], int]:
    """Reuse wherever something can be; return the modes of every branch, and the most bytes."""
    pipe, logs = Guided(steps), list[RequestLog]()
    everything = schedule(0, *[1] * (len(steps) - 1))
    with BlockRunner(pipe, everything, TieredCache(), on_finish=logs.append):
        pipe()
    modes = {branch: found[:, 0, 0].tolist() for branch, found in logs[0].by_branch.items()}
    return modes, logs[0].peak_bytes


def test_guidance_that_ends_or_begins_leaves_the_others_their_entries() -> None:
    ending, _ = computed([[0, 1]] * 3 + [[0]] * 3)
    beginning, _ = computed([[0]] * 3 + [[0, 1]] * 3)
    before_it, _ = computed([[0]] * 3 + [[1, 0]] * 3)

    assert ending == {0: [0, 1, 1, 1, 1, 1], 1: [0, 1, 1, -1, -1, -1]}
    assert beginning == {0: [0, 1, 1, 1, 1, 1], 1: [-1, -1, -1, 0, 1, 1]}
    # The one that was there first computes once more: its place was taken before it came.
    assert before_it == {0: [0, 1, 1, 0, 1, 1], 1: [-1, -1, -1, 0, 1, 1]}


def test_another_order_changes_nothing() -> None:
    found, _ = computed([[0, 1], [1, 0]] * 3)

    assert found == {0: [0, 1, 1, 1, 1, 1], 1: [0, 1, 1, 1, 1, 1]}


def test_a_branch_that_comes_at_every_other_step_is_kept_once_it_has_come_back() -> None:
    found, _ = computed([[0, 1], [0]] * 4)

    assert found == {0: [0] + [1] * 7, 1: [0, -1, 0, -1, 1, -1, 1, -1]}


def test_what_guidance_has_left_behind_is_freed() -> None:
    _, alone = computed([[0]] * 12)
    _, changing = computed([[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [0, 6], [0, 7], [0, 8]])

    assert changing == 2 * alone
