import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.traces import agents
from benchmarks.traces.agents import DEVICE_SHARES, STARTS, by_agent, by_rule, learn
from benchmarks.traces.course import Course, PlacementEnv
from benchmarks.traces.loops import SITES
from benchmarks.traces.placers import CLASSIC, PLACERS, Choice, placed, tally_of
from benchmarks.traces.requests import (
    FACTS,
    VISITS,
    CallPrices,
    Past,
    StoreReplay,
    past_of,
    requests,
)
from benchmarks.traces.simulator import schedule_trace, simulate
from benchmarks.traces.standings import figures_of
from ditcache_rl.types import Mode, Modes

PRICES = CallPrices(1.0, 20.0)


@pytest.fixture(scope="module")
def schedules() -> list[Modes]:
    return requests(range(2))


@pytest.fixture(scope="module")
def past(schedules: list[Modes]) -> Past:
    return past_of(schedules)


@pytest.mark.parametrize("share", DEVICE_SHARES)
def test_nobody_beats_belady_whose_hits_are_those_of_the_simulator(
    schedules: list[Modes], past: Past, share: float
) -> None:
    room = round(share * SITES)

    for modes in schedules:
        best = simulate(schedule_trace(modes), room, "belady").hits
        hits = {name: tally_of(name, modes, share, past).hits for name in (*PLACERS, *CLASSIC)}

        assert hits["belady"] == best == max(hits.values())


@pytest.mark.parametrize("name", [*PLACERS, *CLASSIC])
def test_every_read_is_a_hit_or_a_load_or_computed(
    schedules: list[Modes], past: Past, name: str
) -> None:
    reads = int((schedules[0] != Mode.COMPUTE).sum())

    assert sum(tally_of(name, schedules[0], 0.25, past)) == reads


def test_what_is_dropped_is_computed_and_what_goes_to_the_host_is_loaded(
    schedules: list[Modes], past: Past
) -> None:
    reads = int((schedules[0] != Mode.COMPUTE).sum())
    found = {}
    for choice in (Choice.HOST, Choice.DROP):
        replay = StoreReplay(schedules[0], 0.5, past)
        while not replay.done:
            replay.play(placed(replay, choice))
        found[choice] = tuple(replay.tally)

    assert found == {Choice.HOST: (0, reads, 0), Choice.DROP: (0, 0, reads)}


def test_the_environment_keeps_the_contract(schedules: list[Modes], past: Past) -> None:
    env = PlacementEnv(Course(schedules, DEVICE_SHARES, past))

    check_env(env, skip_render_check=True)

    env.close()


def test_who_does_as_the_cache_does_earns_nothing(schedules: list[Modes], past: Past) -> None:
    env = PlacementEnv(Course(schedules, DEVICE_SHARES, past))
    obs, _ = env.reset(seed=0)
    steps, done = 0, False
    while not done:
        assert obs.shape == (len(FACTS),)
        obs, reward, done, _, _ = env.step(np.int64(Choice.RULE))
        steps += 1
        assert reward == 0

    assert steps == VISITS


def test_an_agent_begins_as_the_cache_itself(
    schedules: list[Modes], past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "ROWS", 4)
    course = Course(schedules, DEVICE_SHARES, past)

    agent = learn(course, 0, start=STARTS["agent"], seed=0)

    found = by_agent(agent, schedules, past)
    assert found == by_rule("default", schedules, past)
    tallies = {"belady": [by_rule("belady", schedules, past)], "default": [found], "agent": [found]}
    figures = figures_of(tallies, PRICES, len(schedules))
    assert figures["agent_of_headroom_share_25"] == 0
    assert figures["belady_of_headroom_share_50"] == 1
