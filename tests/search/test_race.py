"""Races of paths on halves of the cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ditcache_rl.bench import Board, Case
from ditcache_rl.schedules import ComputePath
from ditcache_rl.search import Calibration
from ditcache_rl.search.climb import climb_paths
from ditcache_rl.search.race import Race

STEPS = 6
PATHS: list[ComputePath] = [(0, *rest) for rest in itertools.combinations(range(1, STEPS), 2)]


@pytest.fixture(scope="module")
def calibration(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Calibration:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")
    return Calibration(board, [Case(f"a photo {n}", n) for n in range(17)])


def halves_of(calibration: Calibration) -> Sequence[Any]:
    return [calibration.fitter(part) for part in (calibration.cases[:9], calibration.cases[9:])]


def test_an_error_is_the_mean_over_all_cases_and_who_loses_on_a_half_has_none(
    calibration: Calibration,
) -> None:
    race, halves = Race(calibration, calibration.cases), halves_of(calibration)
    errors = {path: [half.error(path) for half in halves] for path in PATHS}
    rival = PATHS[3]

    (best,) = race.errors([rival], None)
    found = dict(zip(PATHS, race.errors(PATHS, rival), strict=True))

    assert best == pytest.approx(np.average(errors[rival], weights=[9, 8]))
    for path in PATHS:
        if path != rival:
            half = sum(path) % 2
            leads = errors[path][half] < errors[rival][half]
            assert (found[path] < math.inf) == leads
            if leads:
                assert found[path] == pytest.approx(np.average(errors[path], weights=[9, 8]))
    assert math.inf in found.values(), "nothing was ruled out"


def test_few_cases_are_not_halved(calibration: Calibration) -> None:
    few = calibration.cases[:8]
    found = Race(calibration, few).errors(PATHS, PATHS[0])

    assert found[0] == math.inf, "it is no better than itself"
    fitter = calibration.fitter(few)
    for path, error in zip(PATHS[1:], found[1:], strict=True):
        assert error in (fitter.error(path), math.inf)


@pytest.mark.parametrize("width", [2, 5])
def test_what_a_race_ends_at_does_not_depend_on_how_far_it_looks_ahead(
    calibration: Calibration, width: int
) -> None:
    def found(width: int) -> ComputePath:
        errors, rng = Race(calibration, calibration.cases).errors, np.random.default_rng(1)
        return climb_paths(errors, PATHS[:1], STEPS, evaluations=9, rng=rng, width=width)

    assert found(width) == found(1)
