from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from ditcache_rl.control.observation import (
    FeatureBuilder,
    Observation,
    RowTargets,
    schema,
    schema_hash,
)
from ditcache_rl.types import HISTORY, Decision, Floats, Mode, Modes, RunInfo, StepInfo, Tier
from tests.kit.laws import Signals, Walk, random_signals

STEPS, ROWS, SITES = 7, 3, 2
NAMES = schema(SITES, 4, 2)
PRIOR = np.arange(ROWS * 6.0).reshape(ROWS, 6)
TABLES = arrays(np.int8, (STEPS, ROWS, SITES), elements=st.integers(0, 3))


class Watching:
    """Follows a table and keeps what a policy would observe."""

    probe_blocks = 0

    def __init__(self, modes: Modes, targets: RowTargets) -> None:
        self._modes, self._targets = modes, targets
        self.observations: list[Observation] = []

    def reset(self, run: RunInfo) -> None:
        self._builder = FeatureBuilder()
        self._builder.reset(run, self._targets)

    def decide(self, info: StepInfo) -> Decision:
        self.observations.append(self._builder.observe(info, PRIOR.tolist()))
        modes = self._modes[info.step]
        self._builder.note((modes == Mode.COMPUTE).sum(axis=1).tolist())
        return Decision(modes, np.full_like(modes, Tier.DEVICE))


def spending(*computes: int) -> RowTargets:
    return RowTargets(np.array(computes), np.zeros(len(computes)))


def observe(modes: Modes, signals: Signals, targets: RowTargets | None = None) -> dict[str, Floats]:
    """Return every number by its name: (steps, rows)."""
    modes = modes.copy()
    modes[0] = Mode.COMPUTE
    watching = Watching(modes, targets or spending(6, 6, 6))
    Walk(watching, signals, range(ROWS)).to_the_end()
    stacked = np.stack(watching.observations).astype(np.float64)
    return {name: stacked[:, :, index] for index, name in enumerate(NAMES)}


class Past(NamedTuple):
    """What a row has computed, newest first."""

    steps: list[int]
    sigmas: list[float]
    residuals: list[Tensor]


def past_of(modes: Modes, signals: Signals, step: int, row: int, site: int) -> Past:
    steps = [k for k in range(step) if k == 0 or modes[k, row, site] == Mode.COMPUTE]
    steps = steps[::-1][:HISTORY]
    return Past(
        steps,
        [float(signals.sigmas[k]) for k in steps],
        [signals.residuals[k, site, row].double() for k in steps],
    )


def log_error(estimate: Tensor, truth: Tensor) -> float:
    relative = float((estimate - truth).norm() / truth.norm())
    return 1 + float(np.log10(relative)) / 2


def test_what_memory_adds_stands_before_the_prior_and_changes_nothing_else() -> None:
    still, priced = schema(2, 4, 2), schema(2, 4, 2, memory=True)

    added = ("cap_share", "site0/tier", "site1/tier")
    assert priced == (*still[:-6], *added, *still[-6:])
    assert schema_hash(priced) != schema_hash(still)


def test_an_observation_is_as_long_as_its_schema() -> None:
    watching = Watching(np.zeros((STEPS, ROWS, SITES), dtype=np.int8), spending(14, 14, 14))

    Walk(watching, random_signals(steps=STEPS, rows=ROWS, sites=SITES), range(ROWS)).to_the_end()

    for observation in watching.observations:
        assert observation.shape == (ROWS, len(NAMES))
        assert observation.dtype == np.float32


@given(TABLES, st.sampled_from([0.0, 1e-9, 1.0, 1e4]), st.integers(0, 2**16))
@settings(max_examples=40)
def test_an_observation_is_finite_and_clipped_and_ends_with_the_prior(
    modes: Modes, scale: float, seed: int
) -> None:
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES, seed=seed)
    signals = signals._replace(latents=scale * signals.latents, residuals=scale * signals.residuals)

    seen = observe(modes, signals)

    for name, numbers in seen.items():
        assert np.isfinite(numbers).all(), name
        if not name.startswith("prior/"):
            assert (np.abs(numbers) <= 5).all(), name
    priors = np.stack([seen[name] for name in NAMES[-6:]], axis=2)
    assert np.array_equal(priors, np.broadcast_to(PRIOR, (STEPS, ROWS, 6)))


@given(TABLES, st.integers(0, 2**16))
@settings(max_examples=40)
def test_site_facts_equal_what_the_residuals_say_directly(modes: Modes, seed: int) -> None:
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES, seed=seed)

    seen = observe(modes, signals)

    for step, row, site in np.ndindex(STEPS, ROWS, SITES):
        past = past_of(modes, signals, step, row, site)
        known, r = len(past.steps), past.residuals
        expected = {"age": (step - (past.steps[0] if known else -1)) / 8, "valid": known / HISTORY}
        expected |= dict.fromkeys(("log_growth", "turn", "log_error_0", "log_error_1"), 0.0)
        if known >= 2:
            cosine = torch.nn.functional.cosine_similarity(r[0], r[1], dim=0)
            expected["log_growth"] = float(torch.log(r[0].norm() / r[1].norm()))
            expected["turn"] = 10 * (1 - float(cosine))
            expected["log_error_0"] = log_error(r[1], r[0])
        if known >= HISTORY:
            newest, before, oldest = past.sigmas
            slope = (r[1] - r[2]) / (before - oldest)
            expected["log_error_1"] = log_error(r[1] + slope * (newest - before), r[0])
        for name, value in expected.items():
            found = seen[f"site{site}/{name}"][step, row]
            # Norms of small differences out of float32 inner products lose about three digits.
            assert found == pytest.approx(np.clip(value, -5, 5), abs=2e-3), (name, step, row)


@given(TABLES, st.integers(0, 2**16))
@settings(max_examples=40)
def test_drift_is_the_relative_distance_to_the_latents_of_then(modes: Modes, seed: int) -> None:
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES, seed=seed)

    seen = observe(modes, signals)

    for step, row in np.ndindex(STEPS, ROWS):
        computed = [k for k in range(step) if k == 0 or (modes[k, row] == Mode.COMPUTE).any()]
        now = signals.latents[step, row]
        for name, then in (("compute", computed[-1:]), ("step", [step - 1] if step else [])):
            expected = [
                float((now - base).norm() / base.norm()) for base in signals.latents[then, row]
            ]
            found = seen[f"drift_since_{name}"][step, row]
            assert found == pytest.approx(expected[0] if expected else 0.0, rel=1e-4, abs=1e-6)


@given(TABLES)
@settings(max_examples=20)
def test_what_is_spent_is_accounted_row_by_row(modes: Modes) -> None:
    modes = modes.copy()
    modes[0] = Mode.COMPUTE
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES)
    targets = RowTargets(np.array([14, 9, 0]), np.array([0.0, 0.0, 3.0]))

    seen = observe(modes, signals, targets)

    spent = np.zeros(ROWS)
    for step in range(STEPS):
        left = np.where(targets.computes > 0, targets.computes - spent, 0)
        expected = {
            "budget_share": targets.computes / 14,
            "budget_left_share": left / 14,
            "budget_left_per_step": left / ((STEPS - step) * SITES),
            "spent_share": spent / 14,
            "latency_weight": np.array([0, 0, 1.5]),
        }
        for name, numbers in expected.items():
            clipped = np.minimum(numbers, 5)
            # Whole minus spent parts, in place of their exact difference: zero up to rounding.
            np.testing.assert_allclose(
                seen[name][step], clipped, rtol=1e-6, atol=1e-12, err_msg=name
            )
        spent += (modes[step] == Mode.COMPUTE).sum(axis=1)


def test_the_clock_is_that_of_the_sampler() -> None:
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES)

    seen = observe(np.zeros((STEPS, ROWS, SITES), dtype=np.int8), signals)

    for row in range(ROWS):
        np.testing.assert_allclose(seen["step_share"][:, row], np.arange(STEPS) / STEPS, rtol=1e-6)
        np.testing.assert_allclose(seen["inverse_steps"][:, row], 10 / STEPS, rtol=1e-6)
        np.testing.assert_allclose(seen["sigma"][:, row], signals.sigmas[:-1], rtol=1e-6)
        np.testing.assert_allclose(
            seen["sigma_step"][:, row], -np.diff(signals.sigmas) * STEPS / 2, rtol=1e-5
        )


def test_a_builder_starts_every_request_afresh() -> None:
    modes = np.zeros((STEPS, ROWS, SITES), dtype=np.int8)
    watching = Watching(modes, spending(14, 14, 14))
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES)

    Walk(watching, signals, range(ROWS)).to_the_end()
    Walk(watching, signals, range(ROWS)).to_the_end()

    first, second = watching.observations[:STEPS], watching.observations[STEPS:]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_names_are_unique_and_the_prior_comes_last() -> None:
    names = schema(3, 8, 2)

    assert len(set(names)) == len(names)
    assert names[-10:] == (
        *(f"prior/pattern{index}" for index in range(8)),
        "prior/tier0",
        "prior/tier1",
    )


def test_the_hash_changes_with_every_change_of_the_names() -> None:
    names = schema(2, 6, 2)
    variants = [
        names,
        names[1:],
        (*names, "another"),
        (names[1], names[0], *names[2:]),
        ("renamed", *names[1:]),
        schema(1, 6, 2),
        schema(2, 6, 1),
    ]

    hashes = [schema_hash(variant) for variant in variants]

    assert len(set(hashes)) == len(variants)
    assert schema_hash(tuple(names)) == hashes[0]
    assert all(len(digest) == 16 for digest in hashes)


def test_drift_starts_over_where_latents_change_their_shape() -> None:
    signals = random_signals(steps=STEPS, rows=ROWS, sites=SITES)
    watching = Watching(np.zeros((STEPS, ROWS, SITES), dtype=np.int8), spending(14, 14, 14))
    walk = Walk(watching, signals, range(ROWS))
    first, second, third = (
        walk.info()._replace(step=step, latents=latents, anew=step == 1)
        for step, latents in enumerate(
            [signals.latents[0], signals.latents[1][:, :2], signals.latents[2][:, :2]]
        )
    )

    for info in (first, second, third):
        watching.decide(info)

    drift = [seen[:, NAMES.index("drift_since_step")] for seen in watching.observations]
    assert (drift[1] == 0).all()
    moved = (third.latents - second.latents).flatten(1).norm(dim=1)
    expected = moved / second.latents.flatten(1).norm(dim=1)
    np.testing.assert_allclose(drift[2], expected.clamp(max=5), rtol=1e-5)
