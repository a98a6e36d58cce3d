"""The observation: one builder for training and for inference.

What an agent saw in training must be what its export sees in production, so both call
`FeatureBuilder`, and the hash of `schema` is part of every policy. Everything is dimensionless and
of order one, so that a policy carries over to other step counts and sizes.

What the tensors say is packed into one small matrix per step and fetched in one host sync.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.types import HISTORY, Floats, History, RunInfo, StepInfo

Observation = NDArray[np.float32]

_RUN = (
    "budget_share",  # of full compute that may be spent; 0 under a tradeoff
    "budget_left_share",  # of full compute that is left to spend; 0 under a tradeoff
    "budget_left_per_step",  # left over remaining sites and steps: 1 means compute all
    "spent_share",  # of full compute
    "latency_weight",  # of a tradeoff, halved; 0 under a budget
    "step_share",  # t / T
    "inverse_steps",  # 10 / T
    "sigma",
    "sigma_step",  # sigma now minus sigma next, times T / 2
    "drift_since_compute",  # relative, of the latents, since the last step that computed anything
    "drift_since_step",  # relative, of the latents
    "device_free_share",
)
_SITE = (
    "age",  # steps since computed, over 8
    "valid",  # residuals known, over 3
    "log_growth",  # of the residual's norm between its last two computes
    "turn",  # 1 - cosine of the last two computed residuals, times 10
    "log_error_0",  # log10 of the relative error of reuse at the last compute, over 2, shifted by 1
    "log_error_1",  # the same of the forecast of order 1
)
_CLIP = 5.0
_TINY = 1e-12


class Target(NamedTuple):
    """What rows are asked for; one of the two is zero in every row."""

    budget: NDArray[np.int64]
    """(rows,) site computes that may be spent in the request; 0 under a tradeoff."""
    latency_weight: Floats
    """(rows,) weight on t / t_reference; 0 under a budget."""


def schema(sites: int, patterns: int, tiers: int) -> tuple[str, ...]:
    """Name every number of an observation, in order; the last ones are the prior of the actions."""
    return (
        *_RUN,
        *(f"site{site}/{name}" for site in range(sites) for name in _SITE),
        *(f"prior/pattern{index}" for index in range(patterns)),
        *(f"prior/tier{index}" for index in range(tiers)),
    )


def schema_hash(names: tuple[str, ...]) -> str:
    """Return a short digest of a schema and of the scales in this module's constants."""
    text = "\n".join(("1", f"clip={_CLIP}", f"history={HISTORY}", *names))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class FeatureBuilder:
    """Build the observation of every row, step by step.

    Holds the latents of the step before and of the last compute; call `reset` once per request,
    then `observe` and `note` once per step each.
    """

    def reset(self, run: RunInfo, target: Target) -> None:
        """Start a request."""
        self._run = run
        self._target = target
        self.spent: NDArray[np.int64] = np.zeros(run.rows, dtype=np.int64)
        self._before: Tensor | None = None
        self._computed: Tensor | None = None
        self._seen: list[NDArray[np.int64] | None] = [None] * run.sites
        self._blocks: list[Floats] = [np.zeros((run.rows, 4)) for _ in range(run.sites)]

    def observe(self, info: StepInfo, prior: Floats) -> Observation:
        """Describe the present step.

        Args:
            info: What the runner tells of the step.
            prior: (rows, patterns + tiers) log-prior of the actions.

        Returns:
            (rows, len(schema)) float32.
        """
        run, target = self._run, self._target
        latents = info.latents.detach().flatten(1).float()
        measured = self._measure(latents, info.history)
        steps_left = run.num_inference_steps - info.step
        left = np.where(target.budget > 0, target.budget - self.spent, 0)
        columns = [
            target.budget / run.site_steps,
            left / run.site_steps,
            left / (steps_left * run.sites),
            self.spent / run.site_steps,
            target.latency_weight / 2,
            info.step / run.num_inference_steps,
            10 / run.num_inference_steps,
            info.sigma,
            (info.sigma - info.sigma_next) * run.num_inference_steps / 2,
            measured[:, 0],
            measured[:, 1],
            info.device_free_share,
        ]
        for history, facts in zip(info.history, self._blocks, strict=True):
            age = np.where(history.valid > 0, info.step - history.steps[0], 8)
            columns += [age / 8, history.valid / HISTORY, *facts.T]
        observation = np.empty((run.rows, len(columns) + prior.shape[1]), dtype=np.float32)
        for index, column in enumerate(columns):
            observation[:, index] = column
        np.clip(observation, -_CLIP, _CLIP, out=observation)
        observation[:, len(columns) :] = prior
        self._before = latents
        return observation

    def note(self, computed: NDArray[np.int64]) -> None:
        """Count what the decision spends: (rows,) sites that compute at this step."""
        self.spent = self.spent + computed
        rows = computed > 0
        if self._computed is None or rows.all():
            self._computed = self._before
        elif rows.any() and self._before is not None:
            fresh = torch.as_tensor(rows, device=self._before.device)[:, None]
            self._computed = torch.where(fresh, self._before, self._computed)

    def _measure(self, latents: Tensor, histories: Sequence[History]) -> Floats:
        """Fetch what the tensors say: refresh the site facts, return the drifts (rows, 2)."""
        parts = [] if self._before is None else _squares(latents, self._computed, self._before)
        stale = []
        for site, history in enumerate(histories):
            newest = history.steps[0]
            seen = self._seen[site]
            if history.valid.any() and (seen is None or not np.array_equal(seen, newest)):
                stale.append(site)
                self._seen[site] = newest.copy()
                parts.append(_gram(history.residuals()))
        if not parts:
            return np.zeros((len(latents), 2))
        fetched = torch.cat(parts, dim=1).double().cpu().numpy()  # the host sync of the step
        drifts, start = np.zeros((len(latents), 2)), 0
        if self._before is not None:
            squares, start = fetched[:, :4], 4
            drifts = np.sqrt(squares[:, 0::2] / (squares[:, 1::2] + _TINY))
        for site in stale:
            size = HISTORY * HISTORY
            gram = fetched[:, start : start + size].reshape(-1, HISTORY, HISTORY)
            self._blocks[site] = _site_facts(gram, histories[site])
            start += size
        return drifts


def _squares(latents: Tensor, computed: Tensor | None, before: Tensor) -> list[Tensor]:
    """Return squared norms of (change, base) since the last compute and since the last step."""
    base = before if computed is None else computed
    rows = [latents - base, base, latents - before, before]
    return [torch.stack([row.square().sum(1) for row in rows], dim=1)]


def _gram(residuals: Sequence[Tensor]) -> Tensor:
    """Return inner products of residuals, padded with zeros: (rows, HISTORY * HISTORY)."""
    stacked = torch.stack([residual.float() for residual in residuals], dim=1)
    gram = stacked @ stacked.transpose(1, 2)
    pad = HISTORY - stacked.shape[1]
    return torch.nn.functional.pad(gram, (0, pad, 0, pad)).flatten(1)


def _site_facts(gram: Floats, history: History) -> Floats:
    """Derive growth, turn and past errors of reuse and forecast from inner products: (rows, 4).

    Every quantity is a combination of residuals, so its norm follows from the Gram matrix alone.
    """
    facts = np.zeros((len(gram), 4))
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), _TINY))
    two, three = history.valid >= 2, history.valid >= HISTORY
    cosine = gram[:, 0, 1] / (norms[:, 0] * norms[:, 1])
    facts[:, 0] = np.where(two, np.log(norms[:, 0] / norms[:, 1]), 0.0)
    facts[:, 1] = np.where(two, 10 * (1 - cosine), 0.0)
    reuse = np.array([1.0, -1.0, 0.0])[None].repeat(len(gram), 0)
    facts[:, 2] = np.where(two, _log_error(gram, reuse, norms), 0.0)
    sigmas = history.sigmas
    gap = np.where(three, sigmas[1] - sigmas[2], 1.0)
    ahead = np.where(three, sigmas[0] - sigmas[1], 0.0) / np.where(gap == 0, 1.0, gap)
    forecast = np.stack([np.ones_like(ahead), -(1 + ahead), ahead], axis=1)
    facts[:, 3] = np.where(three, _log_error(gram, forecast, norms), 0.0)
    return facts


def _log_error(gram: Floats, weights: Floats, norms: Floats) -> Floats:
    """Return log10 of |sum of weighted residuals| / |newest residual|, over 2, shifted by 1."""
    square = np.einsum("ri,rij,rj->r", weights, gram, weights)
    relative = np.sqrt(np.maximum(square, _TINY)) / norms[:, 0]
    return np.asarray(1 + np.log10(np.maximum(relative, 1e-4)) / 2)
