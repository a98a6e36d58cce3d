"""What the tensors of a request say, as a few numbers: how latents move, how residuals turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import HISTORY, Floats, History

#: Norms that `Drift` fetches per row.
NORMS = 3
_TINY = 1e-12


class Drift:
    """How far the latents have moved since the last compute and since the last step."""

    def __init__(self, rows: int) -> None:
        self._before: Tensor | None = None
        self._computed: Tensor | None = None
        self._norms = [(1.0, 1.0)] * rows  # of the latents then, never quite zero

    def norms(self, latents: Tensor) -> Tensor:
        """Return norms of both moves and of the latents themselves: (rows, 3) float32."""
        now = latents.detach().float()
        before = now if self._before is None else self._before
        computed = before if self._computed is None else self._computed
        self._before = now
        moves: Tensor = torch.linalg.vector_norm(
            torch.stack([now - computed, now - before, now], dim=1), dim=[*range(2, now.ndim + 1)]
        )
        return moves

    def relative(self, norms: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """Relate the fetched norms of every row to those of its latents of then."""
        pairs = list(zip(norms, self._norms, strict=True))
        self._norms = [(computed, now + _TINY) for (*_, now), (computed, _) in pairs]
        return [(far / computed, near / before) for (far, near, _), (computed, before) in pairs]

    def note(self, computed: Sequence[int]) -> None:
        """Remember the present latents of the rows that compute something."""
        assert self._before is not None
        if self._computed is None or all(computed):
            self._computed = self._before
            self._norms = [(before, before) for _, before in self._norms]
        elif any(computed):
            fresh = torch.as_tensor(computed, device=self._before.device) > 0
            fresh = fresh.view(-1, *[1] * (self._before.ndim - 1))
            self._computed = torch.where(fresh, self._before, self._computed)
            self._norms = [
                (before if new else old, before)
                for new, (old, before) in zip(computed, self._norms, strict=True)
            ]


def gram_of(residuals: Sequence[Tensor]) -> Tensor:
    """Return inner products of residuals, padded with zeros: (rows, HISTORY * HISTORY)."""
    stacked = torch.stack([residual.float() for residual in residuals], dim=1)
    gram = stacked @ stacked.transpose(1, 2)
    pad = HISTORY - stacked.shape[1]
    return torch.nn.functional.pad(gram, (0, pad, 0, pad)).flatten(1)


def site_facts(gram: Floats, history: History) -> Floats:
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


def _log_error(gram: Floats, coefficients: Floats, norms: Floats) -> Floats:
    """Return log10 of |sum of weighted residuals| / |newest residual|, over 2, shifted by 1."""
    square = np.einsum("ri,rij,rj->r", coefficients, gram, coefficients)
    relative = np.sqrt(np.maximum(square, _TINY)) / norms[:, 0]
    return np.asarray(1 + np.log10(np.maximum(relative, 1e-4)) / 2)
