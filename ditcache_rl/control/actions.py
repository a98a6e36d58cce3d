"""The discrete actions of a step, and what a request under them is told, allowed and charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.control.observation import (
    FeatureBuilder,
    Observation,
    OwnFeatures,
    RowTargets,
    schema,
)
from ditcache_rl.errors import ShapeError
from ditcache_rl.schedules.forecast import fitted_steps
from ditcache_rl.schedules.patterns import (
    action_prior,
    affordable_patterns,
    follow,
    known_patterns,
    pattern_costs,
    pattern_name,
    pattern_numbers,
    step_patterns,
    with_patterns,
)
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.types import HISTORY, Decision, Fitted, Floats, Modes, RunInfo, StepInfo, Tier

#: Log-odds of the scheduled action against each other one: 0.95 of the probability with four
#: patterns.
SHARPNESS = 4.0


class ActionSpace(NamedTuple):
    """The discrete actions of a step."""

    patterns: Modes
    """(patterns, sites)."""
    tiers: tuple[Tier, ...]
    memory: bool = False
    """Whether who chooses among them sees where entries lie."""
    features: OwnFeatures | None = None
    """What the observation that goes with them has beside ours."""

    @classmethod
    def of(
        cls,
        sites: int,
        tiers: tuple[Tier, ...],
        *,
        memory: bool = False,
        patterns: Sequence[Sequence[int]] = (),
        features: OwnFeatures | None = None,
    ) -> ActionSpace:
        """List the actions for a number of sites.

        Raises:
            ConfigError: If further `patterns` do not give every site a mode, or are there already.
        """
        return cls(with_patterns(step_patterns(sites), patterns), tiers, memory, features)

    @property
    def logits(self) -> int:
        """Numbers that a policy returns: one per pattern, one per tier."""
        return len(self.patterns) + len(self.tiers)

    @property
    def counts(self) -> dict[str, int]:
        """How many patterns and tiers there are."""
        return {"a pattern": len(self.patterns), "a tier": len(self.tiers)}

    def schema(self) -> tuple[str, ...]:
        """Name the numbers of the observation that goes with these actions."""
        own = () if self.features is None else self.features.names
        patterns, sites = self.patterns.shape
        return schema(sites, patterns, len(self.tiers), own, memory=self.memory)

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the patterns, site after site, and the tiers."""
        patterns = tuple(pattern_name(pattern) for pattern in self.patterns)
        return patterns, tuple(tier.name.lower() for tier in self.tiers)


class ActionState:
    """Observation, masks and accounting of a request, shared by training and inference.

    What schedule and target say is laid out as tables when the request starts, so that a step looks
    it up, row by row: at batch 1 every array operation costs more than its arithmetic.
    """

    def __init__(self, actions: ActionSpace) -> None:
        self.actions = actions
        self._costs: list[int] = pattern_costs(actions.patterns).tolist()
        every = np.arange(len(actions.patterns))
        priors = action_prior(every, len(every), len(actions.tiers), sharpness=SHARPNESS)
        if actions.memory:  # where placement matters, other tiers than the scheduled one are tried
            priors[:, len(every) :] /= 4
        #: Log-prior of the actions, patterns and tiers, where the schedule wants a pattern.
        self._priors: list[list[float]] = priors.tolist()
        #: (tiers, sites) what a choice of a tier says of every site.
        self._tiers = np.array(actions.tiers, dtype=np.int8)[:, None].repeat(
            actions.patterns.shape[1], axis=1
        )
        self._builder = FeatureBuilder(actions.features, memory=actions.memory)

    def reset(self, run: RunInfo, targets: RowTargets, schedules: Sequence[Schedule]) -> None:
        """Start a request; every row has a schedule to follow."""
        patterns = self.actions.patterns
        scheduled = np.stack([pattern_numbers(one.modes, patterns) for one in schedules])
        self._fitted: list[Fitted | None] = [None] * run.num_inference_steps
        if any(one.coefficients is not None for one in schedules):
            bare = np.full((run.num_inference_steps, HISTORY), np.nan)
            own = [bare if one.coefficients is None else one.coefficients for one in schedules]
            self._fitted = fitted_steps(patterns[scheduled.T][..., 0], np.stack(own, axis=1))
        # Under a tradeoff a row may spend what it likes, so there is nothing to make up for.
        bound = targets.computes > 0
        followed = follow(patterns, scheduled)
        self._wanted = np.where(bound[:, None, None], followed, scheduled[..., None])
        self._moved_prior = _tier_prior(
            self.actions, schedules, self._priors[0][len(self._costs) :]
        )
        self._allowed = _affordable(self.actions, run.num_inference_steps)
        #: Site computes left; -1 in rows under a tradeoff, whose computes take nothing away.
        self._left: list[int] = np.where(bound, targets.computes, -1).tolist()
        self._builder.reset(run, targets)

    def observe(self, info: StepInfo) -> tuple[Observation, NDArray[np.bool_]]:
        """Return observation (rows, features) and masks (rows, patterns + tiers)."""
        self._step = info.step
        prior = [
            self._priors[wanted[info.step, spent]]
            for wanted, spent in zip(self._wanted, self._builder.spent, strict=True)
        ]
        if self._moved_prior is not None:
            tiers = self._moved_prior[info.step].tolist()
            prior = [
                own[: len(self._costs)] + moved for own, moved in zip(prior, tiers, strict=True)
            ]
        masks = self._allowed[info.step, self._left]
        if self.actions.memory:
            assert info.memory is not None, "who observes memory is told of it"
            valid = np.stack([view.valid for view in info.memory()])
            masks[:, : len(self._costs)] &= known_patterns(self.actions.patterns, valid)
        elif not all(all(history.valid.tolist()) for history in info.history):
            valid = np.stack([history.valid for history in info.history], axis=1)
            masks[:, : len(self._costs)] &= known_patterns(self.actions.patterns, valid)
        return self._builder.observe(info, prior), masks

    def apply(self, chosen: NDArray[np.int64]) -> Decision:
        """Turn chosen actions (rows, 2) into a decision and account for it.

        Where nothing is left to estimate from, more may be computed than was to be spent: then
        nothing is left to spend.
        """
        pattern, tier = chosen.T
        computed = [self._costs[number] for number in pattern.tolist()]
        self._left = [
            max(left - spent, 0) if left >= 0 else left
            for left, spent in zip(self._left, computed, strict=True)
        ]
        self._builder.note(computed)
        return Decision(self.actions.patterns[pattern], self._tiers[tier], self._fitted[self._step])


def _tier_prior(
    actions: ActionSpace, schedules: Sequence[Schedule], usual: Sequence[float]
) -> Floats | None:
    """Prefer the tiers that schedules name, which a step shares: that of the first computed site.

    Args:
        actions: Whose tiers.
        schedules: One per row.
        usual: Log-prior of the tiers where none is named.

    Returns:
        (steps, rows, tiers), or None where no schedule names any.
    """
    if all(one.tiers is None for one in schedules):
        return None
    table = np.tile(np.array(usual), (schedules[0].steps, len(schedules), 1))
    for row, one in enumerate(schedules):
        if one.tiers is None:
            continue
        for step in np.flatnonzero(one.costs):
            tier = Tier(int(one.tiers[step, int(np.argmin(one.modes[step]))]))
            if tier in actions.tiers:
                table[step, row] = 0.0
                table[step, row, actions.tiers.index(tier)] = max(usual)
    return table


def _affordable(actions: ActionSpace, steps: int) -> NDArray[np.bool_]:
    """Tell which actions the site computes that are left allow.

    Returns:
        (steps, site computes left + 1, patterns + tiers). The last entry of the second axis,
        which is that of -1, is for rows under a tradeoff.
    """
    patterns = actions.patterns
    left = np.append(np.arange(steps * patterns.shape[1] + 1), -1)
    table = np.ones((steps, len(left), actions.logits), dtype=bool)
    table[..., : len(patterns)] = affordable_patterns(
        patterns, left=left, steps_after=np.arange(steps)[::-1, None]
    )
    # Without a first residual nothing could ever be reused.
    table[0, :, len(patterns) :] = [tier is not Tier.DROP for tier in actions.tiers]
    return table


def best_actions(
    logits: Floats | Observation, masks: NDArray[np.bool_], patterns: int
) -> NDArray[np.int64]:
    """Take the best feasible pattern and tier of every row: (rows, 2)."""
    allowed = np.where(masks, logits, -np.inf)
    chosen = np.empty((len(allowed), 2), dtype=np.int64)
    allowed[:, :patterns].argmax(axis=1, out=chosen[:, 0])
    allowed[:, patterns:].argmax(axis=1, out=chosen[:, 1])
    return chosen


def checked(actions: Any, shape: tuple[int, ...], counts: Mapping[str, int]) -> NDArray[np.int64]:
    """Check actions of somebody else's.

    Args:
        actions: What was received.
        shape: What is expected; where an action is of several numbers, the last size is theirs.
        counts: Of different values of each number, by its name.

    Raises:
        ShapeError: If they are no integers, of another shape, or out of range.
    """
    received, most = np.asarray(actions), np.array([*counts.values()])
    whole = np.issubdtype(received.dtype, np.integer)
    if received.shape != shape or not whole or ((received < 0) | (received >= most)).any():
        ranges = " and ".join(f"{name} in [0, {count - 1}]" for name, count in counts.items())
        raise ShapeError(
            f"expected actions as integers of shape {shape}, {ranges}, received {received.dtype} "
            f"of shape {received.shape}: {received.tolist()!r:.80}"
        )
    return received.astype(np.int64)
