"""Windows and tiles of one prompt are calls of one branch, in whatever order they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from ditcache_rl.control import EveryK
from ditcache_rl.instrument.notes import REPEATED
from ditcache_rl.types import Mode
from tests.instrument.test_passages import CONTROLLERS, PLACED, WHERE, play
from tests.kit.pipelines import STEPS

#: Tokens of a window, and of the whole.
PART, WHOLE = 16, 40


class Windows(FluxPipeline):  # type: ignore[misc]
    """Denoises windows that overlap, in another order at odd steps.

    Attributes:
        windows: Where they begin.
        texts: Prompts, each of them for every window.
        anew: Embeddings are joined anew for every call.
        batched: All windows of a prompt are one batch.
    """

    windows: tuple[int, ...] = (0, 12, 24)
    texts: tuple[float, ...] = (1.0,)
    anew = False
    batched = False

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, steps: int = STEPS) -> Tensor:
        config = self.transformer.config
        latents = torch.randn(1, WHOLE, config.in_channels, generator=generator)
        text = torch.linspace(-1, 1, 3 * config.joint_attention_dim).reshape(1, 3, -1)
        embeds = [text * scale for scale in self.texts]
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.5)
        for step, t in enumerate(self.scheduler.timesteps):
            noise, count = torch.zeros_like(latents), torch.zeros(WHOLE, 1)
            order = self.windows[:: -1 if step % 2 else 1]
            for start in order:
                count[start : start + PART] += 1
            for given in embeds:
                for group in [order] if self.batched else [(start,) for start in order]:
                    parts = torch.cat([latents[:, start : start + PART] for start in group])
                    seen = self._look(parts, given.clone() if self.anew else given, t)
                    for start, part in zip(group, seen, strict=True):
                        noise[:, start : start + PART] += part / len(embeds)
            latents = self.scheduler.step(noise / count, t, latents, return_dict=False)[0]
        return latents

    def _look(self, parts: Tensor, text: Tensor, t: Any) -> Tensor:
        rows = len(parts)
        seen: Tensor = self.transformer(
            hidden_states=parts,
            encoder_hidden_states=text.repeat(rows, 1, 1) if rows > 1 else text,
            pooled_projections=torch.zeros(rows, self.transformer.config.pooled_projection_dim),
            timestep=t.expand(rows) / 1000,
            guidance=torch.ones(rows),
            img_ids=torch.arange(PART)[:, None].repeat(1, 3),
            txt_ids=torch.zeros(3, 3),
            return_dict=False,
        )[0]
        return seen


class Guided(Windows):
    """One window more than there is, and a prompt that is left alone with it."""

    texts = (1.0, 0.5)


class Anew(Guided):
    """The same with embeddings that are joined for every call."""

    anew = True


class Batched(Guided):
    """The same with all windows in one batch."""

    batched = True


class One(Guided):
    """A single window: guidance and nothing else."""

    windows = (12,)
    anew = True


class Equal(One):
    """Guidance by the prompt itself: equal conditions of equal latents."""

    texts = (1.0, 1.0)


def plain(pipe: Any, kind: type) -> Tensor:
    return play(pipe, kind, EveryK(1)).drawn[0]


@pytest.mark.parametrize("kind", [Windows, Guided, Anew, Batched])
@pytest.mark.parametrize(("name", "where"), PLACED)
def test_a_branch_that_is_called_twice_in_a_step_is_left_alone_and_said(
    kind: type, name: str, where: str, tiny_pipe: Any
) -> None:
    expected = plain(tiny_pipe, kind)

    played = play(tiny_pipe, kind, CONTROLLERS[name](), **WHERE[where])

    assert torch.equal(played.drawn[0], expected)
    assert played.notes == [REPEATED]
    assert played.modes == [[Mode.COMPUTE] * STEPS]
    assert played.logs[0].compute_share.tolist() == [1.0]


@pytest.mark.parametrize("kind", [One, Equal])
@pytest.mark.parametrize("where", WHERE)
def test_guidance_is_no_window(kind: type, where: str, tiny_pipe: Any) -> None:
    played = play(tiny_pipe, kind, CONTROLLERS["every 3"](), **WHERE[where])

    assert not played.notes
    assert played.modes == [[0, 1, 1, 0, 2, 2]]
    assert played.logs[0].branches == 2
    assert not torch.equal(played.drawn[0], plain(tiny_pipe, kind))
