"""Sensitivity by attention: where the weights spread, and how much they move between steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.sensitivity.listen import CaseT, Sampler, SiteListener, Visit, batches, per_row
from ditcache_rl.types import Floats

#: Queries that are looked at, evenly spread: the weights of a long sequence don't fit into memory.
_QUERIES = 64


class AttentionMap(NamedTuple):
    """What the attention of every site does at every step: (cases, steps, sites) each."""

    drift: Floats
    """Mean total variation, in [0, 1], between the weights of a query now and one step before; nan
    at the first step."""
    entropy: Floats
    """Mean entropy of the weights of a query over that of equal weights, in [0, 1]."""


def attention_sensitivity(
    sampler: Sampler[CaseT],
    cases: Sequence[CaseT],
    *,
    rows: int = 8,
    on_rows: Callable[[int], None] | None = None,
) -> AttentionMap:
    """Watch the attention weights of every site.

    Args:
        sampler: Pipeline, steps and sites.
        cases: What to draw.
        rows: Most images per call.
        on_rows: Hears how many images were drawn.

    Raises:
        UnsupportedModelError: If the attention backend hands no weights out.
    """
    parts = []
    for part in batches(cases, rows):
        listener = _Attention(sampler.pipe, sampler.sites, (len(part), sampler.steps))
        with listener, _Watch(listener.attend):
            sampler.draw(part)
        parts.append(listener.result())
        if on_rows is not None:
            on_rows(len(part))
    drift, entropy = (np.concatenate(column) for column in zip(*parts, strict=True))
    return AttentionMap(drift, entropy)


class _Attention(SiteListener):
    """Sums up the weights of every attention inside of a site."""

    def __init__(self, pipe: Any, sites: int, shape: tuple[int, int]) -> None:
        super().__init__(pipe, sites)
        self._name = type(pipe).__name__
        self._rows = shape[0]
        self._sums = np.zeros((2, *shape, sites))
        self._counts = np.zeros((2, shape[1], sites))
        self._present: Visit | None = None
        self._ordinal = 0
        self._weights: dict[tuple[Visit, int], Tensor] = {}

    def enter(self, visit: Visit) -> None:
        """Attribute what attends from here on to this site."""
        self._present, self._ordinal = visit, 0

    def leave(self, visit: Visit, starts: Sequence[Any], ends: Sequence[Any]) -> None:
        """Attribute nothing any more."""
        self._present = None

    def attend(self, weights: Tensor) -> None:
        """Note the weights (batch, heads, queries, keys) of one attention."""
        visit = self._present
        if visit is None or len(weights) % self._rows:
            return
        branches, keys = len(weights) // self._rows, weights.shape[-1]
        spread = -torch.special.xlogy(weights, weights).sum(-1) / np.log(max(keys, 2))
        self._add(1, visit, spread, branches)
        key = visit._replace(step=0), self._ordinal
        before = self._weights.get(key)
        if before is not None and before.shape == weights.shape:
            self._add(0, visit, (weights - before).abs().sum(-1) / 2, branches)
        self._weights[key] = weights
        self._ordinal += 1

    def _add(self, part: int, visit: Visit, values: Tensor, branches: int) -> None:
        found = per_row(values.flatten(1).mean(1), self._rows) / branches
        self._sums[part, :, visit.step, visit.site] += found
        self._counts[part, visit.step, visit.site] += 1

    def result(self) -> AttentionMap:
        """Return the means over what attended."""
        if not self._counts.any():
            raise UnsupportedModelError(
                f"expected {self._name} to call torch's scaled_dot_product_attention inside of its "
                "blocks, received no call: fused kernels hand no weights out; measure by gradient "
                'or injection, or choose set_attention_backend("native")'
            )
        counts = np.where(self._counts, self._counts, np.nan)[:, None]
        return AttentionMap(*(self._sums / counts))


class _Watch(TorchFunctionMode):
    """Hands on the weights of every attention that torch computes."""

    def __init__(self, attend: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._attend = attend

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self._attend(attention_weights(*args, **kwargs))
        return func(*args, **kwargs)


@torch.no_grad()
def attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the weights of some queries: (batch, heads, queries, keys).

    The arguments are those of `torch.nn.functional.scaled_dot_product_attention`.
    """
    count = query.shape[-2]
    picked = torch.linspace(0, count - 1, min(count, _QUERIES), device=query.device).long()
    query = query.index_select(-2, picked).float()
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = query @ key.float().transpose(-2, -1)
    logits = logits * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(count, key.shape[-2], dtype=torch.bool, device=key.device).tril()
    if attn_mask is not None:
        mask = attn_mask.expand(*attn_mask.shape[:-2], count, attn_mask.shape[-1])
        mask = mask.index_select(-2, picked)
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, -torch.inf)
        else:
            logits = logits + mask
    return logits.softmax(-1)
