from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.worlds import algorithms
from benchmarks.worlds.deadlines import LOADS, SHIFTED, Sizes, compared
from benchmarks.worlds.real import real
from benchmarks.worlds.seeds import Trainings, seeds
from ditcache_rl.bench import Board, Case
from ditcache_rl.rl import forecast
from ditcache_rl.world import Pacer
from tests.kit.environment import PROMPTS, levels_of
from tests.kit.pacers import tiny_pacer

STEPS = 6


def test_contenders_are_compared_under_every_load_and_the_clairvoyant_is_best() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, 9), agent=True)
    # Of steps that are short against what was recorded.
    quick = replace(pacer.pacing, compute_s=0.02, shortest_s=0.02, longest_s=0.16)
    pacer = replace(pacer, pacing=quick)
    figures, lines = compared(pacer, Sizes(400, 120, 240, 2, 0))

    assert {f"kept_share_{load}" for load in LOADS} <= set(figures)
    assert {f"agent_over_rule_db_{load}" for load in SHIFTED} <= set(figures)
    assert {"agent_kept_share_recorded", "rule_kept_share_recorded"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    for load in LOADS:
        by_name = {line["contender"]: line["psnr_db"] for line in lines if line["load"] == load}
        assert by_name["3 clairvoyant"] >= by_name["0a static by deadline"]


def test_every_ablation_is_trained_and_judged_beside_the_whole_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast, "_BATCHES", 2)
    pacer = tiny_pacer(np.linspace(1.0, 0.0, 9), agent=True)
    figures, lines = seeds(pacer, Trainings(2, 1000, 240))

    assert figures["seeds_count"] == 2
    assert [line["seed"] for line in lines if line["agent"] == "whole"] == [0, 1]
    assert len({line["agent"] for line in lines}) == len(lines) - 1
    assert all(0.0 <= float(str(line["kept_share"])) <= 1.0 for line in lines)


def test_every_algorithm_is_trained_on_as_many_images_and_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast, "_BATCHES", 2)
    monkeypatch.setattr(algorithms, "_BATCH", 48)
    pacer = tiny_pacer(np.linspace(1.0, 0.0, 9), agent=True)
    figures, lines = algorithms.algorithms(pacer, Trainings(1, 96, 240))

    assert [line["agent"] for line in lines] == ["maskable", "plain", "recurrent", "a2c", "dqn"]
    assert {line["images"] for line in lines} == {96}
    assert {f"{line['agent']}_over_rule_db" for line in lines} <= set(figures)
    assert np.isfinite(list(figures.values())).all()


@pytest.mark.slow
def test_real_calls_are_timed_while_other_processes_work(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    board = Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")
    pacer: Pacer = tiny_pacer(levels_of(tiny_pipe, tiny_call, STEPS), compute_s=0.01)
    cases = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS["test"])]

    figures, lines = real(board, pacer, pacer.prior, cases)

    assert 0.0 <= figures["real_kept_share"] <= 1.0
    assert [line["n"] for line in lines] == [len(cases)] * 2
