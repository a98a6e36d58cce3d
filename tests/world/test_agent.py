from dataclasses import replace

import numpy as np
import pytest
import torch

from ditcache_rl.errors import ArtifactError
from ditcache_rl.types import Floats
from ditcache_rl.world import Agent, GapCosts, Pacer, Prices, Requests
from ditcache_rl.world.gauge import NAMES
from ditcache_rl.world.load import SLOTS
from ditcache_rl.world.moment import familiar
from tests.kit.pacers import tiny_pacer

STEPS, ROWS = 12, 64
#: What the agent was trained for: times given, in unloaded computes, and slowdowns.
SHORTEST, LONGEST, SLOWEST = 3.0, 8.0, 3.0


def opinionated(pacer: Pacer) -> Agent:
    """Decide by everything that is seen, at random."""
    assert pacer.network is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for weights in pacer.network.parameters():
            torch.nn.init.normal_(weights)
    return Agent(pacer.network.on_host(), pacer.agent.senses, longest=LONGEST, slowest=SLOWEST)


def images(pacer: Pacer, slowdown: float) -> Requests:
    """Begin images on a machine that is evenly slow, with as much more time."""
    quality = GapCosts(pacer.sigmas, pacer.costs)
    traces = np.full((ROWS, int(SLOTS * 120 * slowdown)), slowdown)
    given = slowdown * np.linspace(SHORTEST, LONGEST, ROWS)
    rng = np.random.default_rng(0)
    return Requests(quality, Prices(0.5, 0.01, 0.5), traces, given, rng=rng)


def decisions(pacer: Pacer, agent: Agent, slowdown: float) -> Floats:
    requests, played = images(pacer, slowdown), []
    while requests.step < STEPS:
        played.append(agent(requests.moment()))
        requests.play(played[-1])
    return np.array(played)


def test_a_machine_slower_than_any_before_is_decided_as_a_quicker_one_with_less_time() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    agent = opinionated(pacer)
    slow, slower = (decisions(pacer, agent, slowdown) for slowdown in (4.0, 40.0))

    np.testing.assert_array_equal(slow, slower)
    anyhow = Agent(agent.network, agent.senses)
    assert (decisions(pacer, anyhow, 4.0) != decisions(pacer, anyhow, 40.0)).any()


def test_what_was_trained_for_is_seen_as_it_is() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    moment = images(pacer, 1.5).moment()
    given = np.minimum(moment.given, LONGEST)
    moment = moment._replace(given=given)

    seen = familiar(moment, longest=LONGEST, slowest=SLOWEST)

    np.testing.assert_array_equal(seen.given, moment.given)
    np.testing.assert_array_equal(seen.left, moment.left)
    np.testing.assert_array_equal(seen.gauge, moment.gauge)


def test_what_is_measured_in_other_computes_keeps_how_many_fit() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    moment = images(pacer, 20.0).moment()

    seen = familiar(moment, longest=LONGEST, slowest=SLOWEST)

    # As much as the slow average knows of the slowdown: of steps that scatter by 5 %, to 1 % or so.
    assert seen.given.max() <= LONGEST * 1.04
    assert seen.slowdown[:, -1].max() <= SLOWEST * (1 + 1e-9)
    np.testing.assert_allclose(seen.left / seen.slowdown[:, 0], moment.left / moment.slowdown[:, 0])
    np.testing.assert_array_equal(seen.gauge[:, 3:7], moment.gauge[:, 3:7])
    np.testing.assert_array_equal(seen.gauge[:, -2:], moment.gauge[:, -2:])


def test_an_untrained_forecast_is_that_the_speed_stays() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    moment = images(pacer, 1.5).moment()

    present = moment.left / moment.slowdown[:, 0]
    assert present.min() < STEPS / 2 < present.max()
    fits = pacer.agent.senses.forecast(moment)
    np.testing.assert_allclose(fits, np.stack([present] * 2, axis=1), rtol=1e-6)


def test_a_machine_that_jumped_images_ago_is_told_from_one_that_did_not() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    quality, prices = GapCosts(pacer.sigmas, pacer.costs), Prices(0.5, 0.01, 0.5)
    traces = np.ones((2, SLOTS * 200))
    traces[1, : SLOTS * 2 * STEPS : 2 * SLOTS] = 3.0  # not since the second of four images
    given = np.full(2, LONGEST)
    requests = Requests(quality, prices, traces, given, rng=np.random.default_rng(0))

    even, jumped = requests.moment().gauge[:, NAMES.index("mean_jump_at_rate_0.01")]
    assert jumped > even + 0.5  # by more than a quarter


def test_an_agent_reads_of_its_prior_what_the_prior_does() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    requests, senses, rng = images(pacer, 1.5), pacer.agent.senses, np.random.default_rng(1)
    wanted = []
    while requests.step < STEPS:
        moment = requests.moment()
        for prior in (pacer.prior, pacer.rule):
            skip, compute = replace(senses, prior=prior).read(moment)[:, -2:].T
            wanted.append(compute > skip)
            np.testing.assert_array_equal(wanted[-1], prior(moment))
        requests.play(rng.random(ROWS) < 0.5)

    assert 0 < np.mean(wanted) < 1


def test_an_agent_that_reads_something_else_is_refused() -> None:
    pacer = tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)
    other = replace(pacer.pacing, reads=[*pacer.pacing.reads[:-1], "gain_at_forecast_+2"])

    assert Pacer.from_arrays(pacer.pacing, pacer.to_arrays()).agent
    with pytest.raises(ArtifactError, match=r"expected an agent that reads .* train it again"):
        Pacer.from_arrays(other, pacer.to_arrays())
