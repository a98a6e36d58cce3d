import itertools
from typing import Any

import pytest

from ditcache_rl.bench import Board, Case
from ditcache_rl.schedules.placement import path_cost
from ditcache_rl.search import Calibration, Propose, Space, gap_proposals, proposals
from ditcache_rl.search.proposals import (
    dp_proposals,
    minimax_proposals,
    threshold_proposals,
)
from ditcache_rl.types import Mode
from tests.kit.boards import ZooBoard
from tests.kit.pipelines import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one site", "two sites"])
def calibration(request: pytest.FixtureRequest, tiny_pipe: Any, tiny_call: Any) -> Calibration:
    return Calibration(Board(tiny_pipe, 5, sites=request.param, call=tiny_call, rows=8), CASES)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    "propose", [dp_proposals, gap_proposals, minimax_proposals, threshold_proposals]
)
def test_what_is_proposed_computes_what_is_asked_for_within_the_space(
    propose: Propose, calibration: Calibration, ends: bool
) -> None:
    sites = calibration.board.sites
    space = Space(5, sites, between=(Mode.REUSE, Mode.FORECAST1), ends=ends)

    for computes in (2 * sites, 2 * sites + 1, 4 * sites):
        found = propose(calibration, space, computes)
        assert found
        for schedule in found:
            assert schedule.modes.shape == (5, sites)
            assert schedule.computes == computes
            assert not schedule.modes[0].any()
            assert not ends or not schedule.modes[-1].any()
            assert set(schedule.modes.ravel().tolist()) <= {Mode.COMPUTE, *space.between}


def test_what_gaps_propose_is_the_schedule_whose_gaps_lack_least(calibration: Calibration) -> None:
    sites, costs = calibration.board.sites, calibration.fitted_gaps()

    (schedule,) = gap_proposals(calibration, Space(5, sites), 3 * sites)

    every = [(0, *rest) for rest in itertools.combinations(range(1, 5), 2)]
    assert schedule.path == min(every, key=lambda path: path_cost(costs, path))
    assert schedule.computes == 3 * sites


@pytest.mark.parametrize("propose", [proposals, gap_proposals])
def test_a_pipeline_that_cannot_be_taken_apart_gets_no_proposals(propose: Propose) -> None:
    board = ZooBoard("WanPipeline (two transformers)", 4)
    said: list[str] = []

    found = propose(Calibration(board, CASES[:1], said.append), Space(4, 1), 2)

    assert found == []
    assert "without proposals: expected a pipeline of one denoiser" in said[-1]
