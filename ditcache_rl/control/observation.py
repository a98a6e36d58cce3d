"""The observation: one builder for training and for inference.

What an agent saw in training must be what its export sees in production, so both call
`FeatureBuilder`, and the hash of `schema` is part of every policy. Everything is dimensionless and
of order one, so that a policy carries over to other step counts and sizes.

What the tensors say is packed into one small matrix per step and fetched in one host sync. The rest
is arithmetic of Python's numbers, row by row: between two passes of a large model everything has
left the processor's caches, and a call of an array library costs tens of such operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ditcache_rl.control.drift import NORMS, Drift, gram_of, site_facts
from ditcache_rl.errors import ShapeError
from ditcache_rl.types import HISTORY, Floats, RunInfo, StepInfo, Tier

Observation = NDArray[np.float32]

_RUN = (
    "budget_share",  # of full compute that may be spent; 0 under a tradeoff
    "budget_left_share",  # of full compute that is left to spend; 0 under a tradeoff
    "budget_left_per_step",  # left over remaining sites and steps: 1 means compute all
    "spent_share",  # of full compute
    "latency_weight",  # of a tradeoff, halved; 0 otherwise
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
#: What follows where memory is priced, of the run and of every site.
_MEMORY_RUN = ("cap_share",)  # of the device, over the largest that it ever has
_MEMORY_SITE = ("tier",)  # of the newest entry, over 3: 0 on the device, 1 nowhere
_COLUMN = {name: place for place, name in enumerate(_RUN)}
#: What changes with every computed site: budget left, the same per step, and what is spent.
_SPENDING = range(_COLUMN["budget_left_share"], _COLUMN["spent_share"] + 1)
_DRIFTS = slice(_COLUMN["drift_since_compute"], _COLUMN["drift_since_step"] + 1)
_FREE = _COLUMN["device_free_share"]
_AGE, _VALID, _FACTS = 0, 1, 2  # places within a site; the facts are what `site_facts` returns
_CLIP = 5.0


class RowTargets(NamedTuple):
    """What rows are asked for; one of the two is zero in every row."""

    computes: NDArray[np.int64]
    """(rows,) site computes that may be spent in the request; 0 under a tradeoff."""
    latency_weight: Floats
    """(rows,) weight on t / t_reference; 0 where computes are given."""


class OwnFeatures(NamedTuple):
    """Numbers that somebody adds to the observation."""

    names: tuple[str, ...]
    """What they are called."""
    of: Callable[[StepInfo], Floats]
    """Returns them for the present step: (rows, names), of order one."""


def schema(
    sites: int, patterns: int, tiers: int, own: Sequence[str] = (), *, memory: bool = False
) -> tuple[str, ...]:
    """Name every number of an observation, in order; the last ones are the prior of the actions.

    Args:
        sites: Parts of the block stack.
        patterns: Actions of a step.
        tiers: Where what is computed may be kept.
        own: Names of further features.
        memory: Whether it tells where entries lie and what the device has room for.
    """
    places = (
        *_MEMORY_RUN,
        *(f"site{site}/{name}" for site in range(sites) for name in _MEMORY_SITE),
    )
    return (
        *_RUN,
        *(f"site{site}/{name}" for site in range(sites) for name in _SITE),
        *(places if memory else ()),
        *own,
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

    Args:
        own: Further features, before the prior.
        memory: Whether to tell where entries lie, which `StepInfo.memory` must, in place of what
            they say.
    """

    def __init__(self, own: OwnFeatures | None = None, *, memory: bool = False) -> None:
        self._own, self._memory = own, memory

    def reset(self, run: RunInfo, targets: RowTargets) -> None:
        """Start a request."""
        self._run = run
        #: Site computes of every row so far.
        self.spent = [0] * run.rows
        self._table, self._per_compute = _known_beforehand(run, targets)
        self._drift = Drift(run.rows)
        #: Per site, the newest step that its facts know of.
        self._seen = [-1] * run.sites

    def observe(self, info: StepInfo, prior: Sequence[Sequence[float]]) -> Observation:
        """Describe the present step.

        Args:
            info: What the runner tells of the step.
            prior: Log-prior of the actions, (patterns + tiers) in every row.

        Returns:
            (rows, len(schema)) float32.
        """
        if info.anew:
            self._drift = Drift(self._run.rows)
        drifts = self._measure(info)
        features: list[list[float]] = self._table[info.step].tolist()
        costs: list[list[float]] = self._per_compute[info.step].tolist()
        for values, spent, cost, drift in zip(features, self.spent, costs, drifts, strict=True):
            for place, each in zip(_SPENDING, cost, strict=True):
                values[place] += spent * each
            values[_FREE] = info.device_free_share
            values[_DRIFTS] = drift
        for site, history in enumerate(info.history):
            place = len(_RUN) + site * len(_SITE)
            newest, valid = history.steps[0].tolist(), history.valid.tolist()
            for values, step, known in zip(features, newest, valid, strict=True):
                values[place + _AGE] = (info.step - step) / 8
                values[place + _VALID] = known / HISTORY
        further: list[Sequence[Sequence[float]]] = []
        if self._memory:
            further.append(self._places(features, info))
        if self._own is not None:
            further.append(_values_of(self._own, info))
        rows = [[min(max(value, -_CLIP), _CLIP) for value in values] for values in features]
        for more in (*further, prior):
            for values, others in zip(rows, more, strict=True):
                values.extend(others)
        return np.array(rows, dtype=np.float32)

    def _places(self, features: list[list[float]], info: StepInfo) -> list[list[float]]:
        """Say where entries lie, and in the features what is free there: 1 + sites in every row."""
        assert info.memory is not None, "who observes memory is told of it"
        views = info.memory()
        for values, view in zip(features, views, strict=True):
            values[_FREE] = view.free_share
            values[len(_RUN) + _VALID :: len(_SITE)] = (view.valid / HISTORY).tolist()
        return [[view.cap_share, *(view.tiers / max(Tier)).tolist()] for view in views]

    def note(self, computed: Sequence[int]) -> None:
        """Count what the decision spends: sites that compute at this step, in every row."""
        self.spent = [spent + now for spent, now in zip(self.spent, computed, strict=True)]
        self._drift.note(computed)

    def _measure(self, info: StepInfo) -> list[tuple[float, float]]:
        """Fetch what the tensors say: return the drifts, lay down facts of sites that computed."""
        parts = [self._drift.norms(info.latents)]
        stale = []
        # Where entries have a price, looking at them would move them: their facts stay zero.
        for site, history in enumerate(() if self._memory else info.history):
            newest = max(history.steps[0].tolist())
            if newest > self._seen[site] and (residuals := history.residuals()):
                self._seen[site] = newest
                stale.append(site)
                parts.append(gram_of(residuals))
        fetched = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).cpu().numpy()  # sync
        for index, site in enumerate(stale):
            grams = fetched[:, NORMS:].reshape(len(fetched), -1, HISTORY, HISTORY)
            facts = site_facts(grams[:, index].astype(np.float64), info.history[site])
            place = len(_RUN) + site * len(_SITE) + _FACTS
            # What a site said last holds until it computes again.
            self._table[info.step :, :, place : place + facts.shape[1]] = facts
        return self._drift.relative(fetched[:, :NORMS].tolist())


def _values_of(own: OwnFeatures, info: StepInfo) -> list[list[float]]:
    """Ask for features of somebody's own, those of `names` in every row, clipped as ours are.

    Raises:
        ShapeError: If they are not finite numbers of that shape.
    """
    values = np.asarray(own.of(info), dtype=np.float64)
    expected = (info.run.rows, len(own.names))
    if values.shape != expected or not np.isfinite(values).all():
        raise ShapeError(
            f"expected finite features of shape {expected} ({', '.join(own.names)}) at step "
            f"{info.step}, received {values.tolist()!r:.80} of shape {values.shape}"
        )
    clipped: list[list[float]] = values.clip(-_CLIP, _CLIP).tolist()
    return clipped


def _known_beforehand(run: RunInfo, targets: RowTargets) -> tuple[Floats, Floats]:
    """Lay out what is known of all steps when a request starts.

    Returns:
        (steps, rows, features) with nothing spent yet and zero for what must be measured, and
        (steps, rows, 3) by how much each computed site changes the columns `_SPENDING`.
    """
    steps = run.num_inference_steps
    clock = np.arange(steps)[:, None]
    table = np.zeros((steps, run.rows, len(_RUN) + run.sites * len(_SITE)))
    columns: dict[str, Floats | float] = {
        "budget_share": targets.computes / run.site_steps,
        "budget_left_share": targets.computes / run.site_steps,
        "budget_left_per_step": targets.computes / ((steps - clock) * run.sites),
        "latency_weight": targets.latency_weight / 2,
        "step_share": clock / steps,
        "inverse_steps": 10 / steps,
        "sigma": run.sigmas[:steps, None],
        "sigma_step": -np.diff(run.sigmas)[:steps, None] * steps / 2,
    }
    for name, values in columns.items():
        table[:, :, _COLUMN[name]] = values
    bound = np.sign(targets.computes)
    per_compute = np.empty((steps, run.rows, 3))
    per_compute[..., 0] = -bound / run.site_steps
    per_compute[..., 1] = -bound / ((steps - clock) * run.sites)
    per_compute[..., 2] = 1 / run.site_steps
    return table, per_compute
