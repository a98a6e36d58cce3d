"""Laws that every class of a kind must obey, whatever it is for; tests call them on their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import Decision, Floats, Mode, Modes, RunInfo, StepInfo, Tier


class Signals(NamedTuple):
    """What a request would show to a controller, step by step, in every row."""

    sigmas: Floats
    """(steps + 1,)."""
    latents: Tensor
    """(steps, rows, tokens, channels), and so the next three."""
    hidden_states: Tensor
    modulated: Tensor
    outputs: Tensor
    probes: Tensor
    """(steps, rows, features)."""
    residuals: Tensor
    """(steps, sites, rows, features)."""


def random_signals(*, steps: int, rows: int, sites: int, seed: int = 0) -> Signals:
    """Draw signals that wander slowly, at uneven noise levels that fall from 1 to 0."""
    generator = torch.Generator().manual_seed(seed)

    def walk(*shape: int) -> Tensor:
        first = 2 * torch.randn(1, *shape, generator=generator)
        steps_taken = 0.3 * torch.randn(steps - 1, *shape, generator=generator)
        return torch.cat([first, steps_taken]).cumsum(0)

    gaps = np.random.default_rng(seed).uniform(0.5, 1.5, steps)
    return Signals(
        sigmas=np.append(1 - np.cumsum(gaps) / gaps.sum() + gaps / gaps.sum(), 0.0),
        latents=walk(rows, 3, 4),
        hidden_states=walk(rows, 3, 4),
        modulated=walk(rows, 3, 4),
        outputs=walk(rows, 3, 4),
        probes=walk(rows, 12),
        residuals=walk(sites, rows, 12),
    )


class Walk:
    """A request without a pipeline: given signals, real histories that follow the decisions.

    Args:
        controller: Is reset and then asked step by step.
        signals: Of a batch.
        rows: Rows of that batch that this request has.
    """

    def __init__(self, controller: Controller, signals: Signals, rows: Sequence[int]) -> None:
        steps, sites = signals.residuals.shape[:2]
        self.run = RunInfo(steps, signals.sigmas, len(rows), sites)
        self.lose()
        self.decisions: list[Decision] = []
        self.modes: list[Modes] = []
        self._controller, self._signals, self._rows = controller, signals, list(rows)
        controller.reset(self.run)

    def lose(self) -> None:
        """Forget everything that was computed, as a cache does that has no room any more."""
        self.histories = [
            SiteHistory(TieredCache(), 0, 0, site, self.run.rows) for site in range(self.run.sites)
        ]

    def info(self) -> StepInfo:
        """Describe the present step."""
        step, rows, signals = len(self.decisions), self._rows, self._signals
        return StepInfo(
            run=self.run,
            step=step,
            sigma=float(signals.sigmas[step]),
            sigma_next=float(signals.sigmas[step + 1]),
            latents=signals.latents[step, rows],
            hidden_states=signals.hidden_states[step, rows],
            probe_residual=signals.probes[step, rows] if self._controller.probe_blocks else None,
            modulated=lambda: signals.modulated[step, rows],
            last_output=signals.outputs[step - 1, rows] if step else None,
            history=self.histories,
            device_free_share=1.0,
        )

    def step(self) -> None:
        """Decide a step, and record what it computes as the runner would."""
        step, decision = len(self.decisions), self._controller.decide(self.info())
        effective = decision.modes.copy()
        for site, history in enumerate(self.histories):
            effective[:, site] = history.effective(decision.modes[:, site])
            kept = (effective[:, site] == Mode.COMPUTE) & (decision.tiers[:, site] != Tier.DROP)
            rows = np.flatnonzero(kept)
            if len(rows):
                residual = self._signals.residuals[step, site, [self._rows[row] for row in rows]]
                sigma = float(self.run.sigmas[step])
                history.record(residual, rows, step, sigma, Tier.DEVICE)
        self.decisions.append(decision)
        self.modes.append(effective)

    def to_the_end(self) -> Modes:
        """Decide all steps that are left; return all effective modes: (steps, rows, sites)."""
        while len(self.decisions) < self.run.num_inference_steps:
            self.step()
        return np.stack(self.modes)


def check_controller(
    make: Callable[[], Controller], *, steps: int = 8, rows: int = 3, sites: int = 1
) -> None:
    """Check the protocol of `control.base.Controller`.

    A decision has a mode and a tier for every row and site; the first step computes; `reset` makes
    runs repeatable; shallow copies share nothing that belongs to a request.
    """
    everyone = range(rows)
    one, other = (random_signals(steps=steps, rows=rows, sites=sites, seed=s) for s in (1, 2))

    walk = Walk(make(), one, everyone)
    expected = walk.to_the_end()
    for decision in walk.decisions:
        for array, kind in ((decision.modes, Mode), (decision.tiers, Tier)):
            assert array.shape == (rows, sites)
            assert array.dtype == np.int8
            assert set(array.ravel().tolist()) <= set(kind)
    assert (walk.decisions[0].modes == Mode.COMPUTE).all()

    reused = make()
    expected_other = Walk(reused, other, everyone).to_the_end()
    assert np.array_equal(Walk(reused, one, everyone).to_the_end(), expected)
    assert np.array_equal(Walk(reused, other, everyone).to_the_end(), expected_other)

    shared = make()
    left, right = (Walk(copy.copy(shared), signals, everyone) for signals in (one, other))
    for _ in range(steps):
        left.step()
        right.step()
    assert np.array_equal(left.to_the_end(), expected)
    assert np.array_equal(right.to_the_end(), expected_other)


def check_rows_decide_alone(make: Callable[[], Controller], *, steps: int = 12) -> Modes:
    """Check that a row decides the same alone and in a batch; return the modes of the batch."""
    signals = random_signals(steps=steps, rows=4, sites=1, seed=3)

    together = Walk(make(), signals, range(4)).to_the_end()

    for row in range(4):
        alone = Walk(make(), signals, [row]).to_the_end()
        assert np.array_equal(alone[:, 0], together[:, row])
    return together
