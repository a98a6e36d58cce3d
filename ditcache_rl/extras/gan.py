"""Edit images of a StyleGAN-like generator, and reuse the layers that an edit does not reach.

A walk of edits looks like a diffusers pipeline to everything else: a step is one edit, the blocks
are the layers of the synthesis network, rows are images. So runner, cache and sensitivity analysis
serve it as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ditcache_rl.bench import Drawn
from ditcache_rl.control import uniform_decision
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo, Tier


class EditClock:
    """Stands for the scheduler of a walk: its timesteps are the numbers of the edits."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.begin(1)

    def begin(self, edits: int) -> None:
        """Start a walk."""
        self.step_index = 0
        self.timesteps = torch.arange(edits)
        self.sigmas = torch.linspace(1, 0, edits + 1)


class LatentWalk:
    """Draw one image per edit and row; `cached`, `attach` and the analysis take it for a pipeline.

    Args:
        synthesis: Takes styles (B, layers, D), and runs a `blocks` list of modules one after the
            other. A block that keeps the shape of its input is cached as a residual, exact up to
            rounding; all others are exact.
    """

    def __init__(self, synthesis: nn.Module) -> None:
        self.synthesis, self.scheduler = synthesis, EditClock()

    @property
    def components(self) -> dict[str, Any]:
        """What it is made of, by name."""
        return {"synthesis": self.synthesis, "scheduler": self.scheduler}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.synthesis.parameters()).device

    @torch.no_grad()
    def __call__(self, styles: Tensor) -> Tensor:
        """Draw: (edits, rows, layers, D) to (edits, rows, 3, H, W) in [0, 1].

        Raises:
            ConfigError: If the styles have another number of dimensions, or there is no edit.
        """
        if styles.ndim != 4 or not len(styles):
            raise ConfigError(
                "expected styles (edits, rows, layers, D) with at least one edit, received shape "
                f"{tuple(styles.shape)}; stack the styles of all edits"
            )
        self.scheduler.begin(len(styles))
        images = []
        for edit in styles:
            images.append(self.synthesis(edit))
            self.scheduler.step_index += 1
        return torch.stack(images)


class StyleReuse:
    """Reuse every layer whose style, and those of all layers before it, did not change.

    Sites must be the layers. It compares the styles on their device, with one host sync per edit.
    """

    probe_blocks = 0

    def reset(self, run: RunInfo) -> None:
        """Start a walk, whose first edit computes all."""
        self._run, self._styles = run, torch.empty(0)

    def decide(self, info: StepInfo) -> Decision:
        """Compare the styles with those of the edit before.

        Raises:
            ConfigError: If sites are not the layers.
        """
        styles, run = info.latents, self._run
        if styles.ndim != 3 or styles.shape[1] != run.sites:
            raise ConfigError(
                "expected one site per layer and styles (rows, layers, D), received sites = "
                f"{run.sites} and shape {tuple(styles.shape)}; give sites=len(synthesis.blocks)"
            )
        before, self._styles = self._styles, styles.clone()
        if before.shape != styles.shape:
            return uniform_decision(run, Mode.COMPUTE)
        same = (before == styles).all(-1).int().cumprod(1).cpu().numpy()  # the host sync
        modes = np.where(same, Mode.REUSE, Mode.COMPUTE).astype(np.int8)
        return Decision(modes, np.full(modes.shape, Tier.DEVICE, dtype=np.int8))


@dataclass(slots=True)
class WalkSampler:
    """What the sensitivity analysis draws: a case is a walk of one row, (edits, layers, D).

    Attributes:
        pipe: The walk.
        steps: Edits of every case.
        sites: Layers.
    """

    pipe: LatentWalk
    steps: int
    sites: int

    def draw(self, cases: Sequence[Tensor]) -> Drawn:
        """Draw all edits of some walks: (len(cases), edits, 3, H, W), on the CPU."""
        started = time.perf_counter()
        images = self.pipe(torch.stack(list(cases), dim=1)).transpose(0, 1).cpu()
        return Drawn(images, None, time.perf_counter() - started)
