"""The discrete actions of a step: which sites compute and what the others do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Floats, Mode, Modes

Masks = NDArray[np.bool_]


def step_patterns(sites: int) -> Modes:
    """List the patterns of a step: (patterns, sites) modes.

    Compute all; reuse all; forecast all with order 1 and 2; then, for d = 1 .. sites - 1, compute
    the first d or the last d sites and forecast the others. Together their costs are 0, 1, ..
    sites, so that every number of computes can be met exactly.
    """
    patterns = [[mode] * sites for mode in Mode]
    for d in range(1, sites):
        patterns.append([Mode.COMPUTE] * d + [Mode.FORECAST1] * (sites - d))
        patterns.append([Mode.FORECAST1] * (sites - d) + [Mode.COMPUTE] * d)
    return np.array(patterns, dtype=np.int8)


def with_patterns(patterns: Modes, further: Sequence[Sequence[int]]) -> Modes:
    """Append patterns of somebody's own.

    Args:
        patterns: (patterns, sites).
        further: A mode per site each.

    Raises:
        ConfigError: If one has no mode for some site, or is there already.
    """
    sites = patterns.shape[1]
    for modes in further:
        if len(modes) != sites or not set(modes) <= set(Mode):
            raise ConfigError(
                f"expected patterns of {sites} modes in 0 to {max(Mode)}, received {list(modes)}"
            )
        one = np.array([modes], dtype=np.int8)
        if (patterns == one).all(axis=1).any():
            raise ConfigError(f"expected patterns that are new, received {list(modes)} once more")
        patterns = np.concatenate([patterns, one])
    return patterns


def pattern_name(pattern: Modes) -> str:
    """Name a pattern: "reuse", or as "2 compute, 1 forecast1" where sites differ."""
    runs = [(len(list(run)), Mode(mode).name.lower()) for mode, run in groupby(pattern.tolist())]
    return runs[0][1] if len(runs) == 1 else ", ".join(f"{sites} {mode}" for sites, mode in runs)


def pattern_costs(patterns: Modes) -> NDArray[np.int64]:
    """Count the sites that each pattern computes: (patterns,)."""
    return np.asarray((patterns == Mode.COMPUTE).sum(axis=1), dtype=np.int64)


def pattern_numbers(modes: Modes, patterns: Modes) -> NDArray[np.int64]:
    """Return the pattern of every step of a schedule: (steps,).

    Raises:
        ConfigError: If a step has none of them.
    """
    same = (modes[:, None] == patterns[None]).all(axis=2)
    if not same.any(axis=1).all():
        raise ConfigError(
            "expected a schedule whose steps are all among the step patterns, received step "
            f"{int(np.argmin(same.any(axis=1)))} with modes {modes[~same.any(axis=1)][0].tolist()}"
        )
    return np.asarray(same.argmax(axis=1), dtype=np.int64)


def affordable_patterns(
    patterns: Modes, *, left: NDArray[np.int64], steps_after: NDArray[np.int64]
) -> Masks:
    """Mark the patterns after which the computes that are left can still be spent exactly.

    Args:
        patterns: (patterns, sites).
        left: (...) site computes left, this step included; negative under a tradeoff.
        steps_after: (...) steps that follow this one; broadcasts with `left`.

    Returns:
        (..., patterns); at least one is true as long as `left` can be spent.
    """
    rest = left[..., None] - pattern_costs(patterns)
    most = steps_after[..., None] * patterns.shape[1]
    return np.asarray((rest >= 0) & (rest <= most) | (left[..., None] < 0))


def known_patterns(patterns: Modes, valid: NDArray[np.int64]) -> Masks:
    """Mark the patterns whose estimates have a residual to start from: (rows, patterns).

    One residual is enough for every forecast, as the runner lowers the order to what is known.
    Static schedules rely on that, and forbidding here what they do would make a policy leave its
    schedule before it has learned anything.

    Args:
        patterns: (patterns, sites).
        valid: (rows, sites) residuals that each site knows.
    """
    known = (patterns == Mode.COMPUTE)[None] | (valid[:, None] > 0)
    return np.asarray(known.all(axis=2))


def follow(patterns: Modes, scheduled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tell how to follow schedules, and how to make up for every departure as soon as possible.

    A computed step that was left out is made up at the next step, one that came early is left out
    later: so one departure moves a compute, and what was asked for is never pushed to the end.

    Args:
        patterns: (patterns, sites).
        scheduled: (rows, steps) pattern per step of each row's schedule.

    Returns:
        (rows, steps, steps * sites + 1) pattern that keeps to the schedule at a step, by the
        sites that were computed before it.
    """
    costs = pattern_costs(patterns)
    steps = scheduled.shape[1]
    # The cheapest way to compute 0 .. sites sites; for 0 the schedule itself knows better.
    paying = np.array([int(np.argmax(costs == n)) for n in range(patterns.shape[1] + 1)])
    idle = np.full_like(scheduled, Mode.FORECAST1)
    for step in range(steps - 1, -1, -1):
        later = idle[:, min(step + 1, steps - 1)]
        idle[:, step] = np.where(costs[scheduled[:, step]] == 0, scheduled[:, step], later)
    spent = np.arange(steps * patterns.shape[1] + 1)
    owed = costs[scheduled].cumsum(axis=1)[..., None] - spent
    made_up = paying[np.clip(owed, 0, len(paying) - 1)]
    wanted = np.where(owed <= 0, idle[..., None], made_up)
    return np.where(owed == costs[scheduled][..., None], scheduled[..., None], wanted)


def action_prior(
    wanted: NDArray[np.int64], patterns: int, tiers: int, *, sharpness: float
) -> Floats:
    """Return the log-prior of a row's actions: what its schedule wants gets most of the weight.

    Args:
        wanted: (rows,) pattern that keeps to the schedule.
        patterns: Number of patterns.
        tiers: Number of tiers; the first is preferred.
        sharpness: Log-odds of the wanted pattern against each other one.

    Returns:
        (rows, patterns + tiers), up to a constant per head.
    """
    prior = np.zeros((len(wanted), patterns + tiers))
    prior[np.arange(len(wanted)), wanted] = sharpness
    prior[:, patterns] = 2 * sharpness
    return prior
