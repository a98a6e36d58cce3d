from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from ditcache_rl.errors import ArtifactError
from ditcache_rl.policy.manifest import read_fields
from ditcache_rl.rl.deadline_env import DeadlineVecEnv
from ditcache_rl.rl.forecast import _played, learn_forecast
from ditcache_rl.rl.judge import AGENT, FORESEES, RULE, START, judged, standing
from ditcache_rl.rl.pace import learn_agent
from ditcache_rl.world import (
    Agent,
    Decide,
    Forecast,
    Foreseeing,
    GapCosts,
    Moment,
    Pacer,
    Pacing,
    Replanning,
    played,
)
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES
from ditcache_rl.world.forecast import QUANTILES
from ditcache_rl.world.tuning import cautious, score_db
from ditcache_rl.world.world import World
from tests.kit.pacers import tiny_pacer

STEPS = 8
LOADS = ("slow", "fast")


@pytest.fixture(scope="module")
def pacer() -> Pacer:
    return tiny_pacer(np.linspace(1.0, 0.0, STEPS + 1), agent=True)


@pytest.fixture(scope="module")
def world(pacer: Pacer) -> World:
    return World(GapCosts(pacer.sigmas, pacer.costs), pacer.prices, (3.0, 8.0))


def made(world: World, pacer: Pacer, rows: int = 32) -> DeadlineVecEnv:
    rng = np.random.default_rng(0)
    return DeadlineVecEnv(
        lambda: world.draw(LOADS, rows, rng), pacer.agent.senses, loads=len(LOADS), promised=0.9
    )


def test_rewards_of_an_image_add_up_to_its_worth_less_that_of_the_prior(
    world: World, pacer: Pacer
) -> None:
    env, rng = made(world, pacer), np.random.default_rng(1)
    env.reset()
    images, baseline = env._images.requests, env._images.baseline
    begun = images.so_far()
    total = np.zeros(env.num_envs)
    for _ in range(STEPS):
        masks = env.action_masks()
        wanted = rng.integers(2, size=env.num_envs)
        allowed = np.where(masks[np.arange(len(wanted)), wanted], wanted, masks.argmax(axis=1))
        env.step_async(allowed[:, None])
        _, rewards, dones, infos = env.step_wait()
        total += rewards

    psnr_db, in_time = images.outcome()
    worth = np.where(in_time, psnr_db / 10 + 1.0, 0.0)
    # Nothing is lost before the first step: 60 dB, which is where every image begins.
    np.testing.assert_allclose(begun, 60.0)
    np.testing.assert_allclose(total, worth - baseline - 6.0, atol=1e-4)
    assert dones.all()
    assert infos[0]["terminal_observation"].shape == env.observation_space.shape
    assert env.observation_space.shape == (len(AGENT_NAMES) + ACTIONS,)


def test_the_first_step_computes_and_what_can_not_be_in_time_does_not(
    world: World, pacer: Pacer
) -> None:
    env = made(world, pacer)
    env.reset()
    np.testing.assert_array_equal(env.action_masks(), [[False, True]] * env.num_envs)
    for _ in range(STEPS - 1):
        env.step_async(env.action_masks()[:, 1:].astype(np.int64))
        env.step_wait()
    late = env._images.requests.moment().left <= 0

    assert late.any()
    assert not env.action_masks()[late, 1].any()


def test_an_untrained_agent_is_its_prior(world: World, pacer: Pacer) -> None:
    images = world.fixed(LOADS, 64, seed=3)
    untrained = Agent(pacer.agent.network, pacer.agent.senses)
    prior, agent = (standing("", "", images(), one) for one in (pacer.prior, untrained))

    # It differs where it may not compute any more: there the prior is late anyway.
    assert agent.kept_share >= prior.kept_share
    np.testing.assert_array_equal(
        agent.score_db[prior.score_db > 0], prior.score_db[prior.score_db > 0]
    )


def test_an_action_that_is_not_allowed_is_played_as_the_other_one(
    world: World, pacer: Pacer
) -> None:
    """As algorithms without masks draw them."""
    env = made(world, pacer)
    env.reset()
    for _ in range(STEPS - 1):
        env.step_async(np.zeros((env.num_envs, 1), dtype=np.int64))
        env.step_wait()
    assert (env._images.requests.computed == 1).all()  # the first step, and nothing else
    env.reset()
    for _ in range(STEPS - 1):
        env.step_async(np.ones((env.num_envs, 1), dtype=np.int64))
        env.step_wait()
    late = ~env.action_masks()[:, 1]
    before = env._images.requests.computed
    requests = env._images.requests
    env.step_async(np.ones((env.num_envs, 1), dtype=np.int64))
    env.step_wait()

    assert late.any()
    np.testing.assert_array_equal(requests.computed[late], before[late])
    np.testing.assert_array_equal(requests.computed[~late], before[~late] + 1)


def test_prices_move_after_every_batch_and_are_those_of_its_baseline(
    world: World, pacer: Pacer
) -> None:
    env = made(world, pacer)
    env.reset()
    for _ in range(STEPS):
        env.step_async(np.ones((env.num_envs, 1), dtype=np.int64))
        env.step_wait()
    psnr_db, in_time = played(env._images.requests.again(), pacer.agent.senses.prior)
    price = np.repeat(env.prices, env.num_envs // len(LOADS))
    expected = np.where(in_time, psnr_db / 10 + price, 0.0)

    assert (env.prices != 1.0).all()  # no share of 16 images is what was promised
    np.testing.assert_array_equal(env.prices > 1.0, env.kept < 0.9)
    np.testing.assert_array_equal(env._images.baseline, expected)


def test_training_moves_the_agent_and_is_the_same_for_a_seed(world: World, pacer: Pacer) -> None:
    def learned() -> np.ndarray:
        heard: list[tuple[int, float, float]] = []
        network = learn_agent(
            world,
            LOADS,
            pacer.agent.senses,
            promised=0.9,
            images=3000,
            seed=1,
            hear=lambda *told: heard.append(told),
        )
        assert heard
        return network.head.weight.numpy()

    first, second = learned(), learned()

    assert first.any()
    np.testing.assert_array_equal(first, second)


def test_caution_makes_up_for_an_agent_that_is_late(world: World, pacer: Pacer) -> None:
    network = pacer.agent.network
    weight, bias = network.layers[-1]
    hasty = network._replace(
        layers=[*network.layers[:-1], (weight, bias + np.array([0, 2.5], dtype=np.float32))]
    )
    before = Agent(hasty, pacer.agent.senses)
    after = cautious(world, LOADS, before, 0.8, seed=5)

    kept = [played(world.fixed(LOADS, 1024, seed=9)(), one)[1].mean() for one in (before, after)]
    assert after.caution > 0
    assert kept[1] > kept[0]


def test_a_late_image_is_worth_nothing() -> None:
    np.testing.assert_array_equal(
        score_db(np.array([40.0, 50.0]), np.array([False, True])), [0.0, 50.0]
    )


def test_a_forecast_is_as_often_too_high_as_it_says(world: World, pacer: Pacer) -> None:
    rng = np.random.default_rng(0)
    network = learn_forecast(
        lambda: world.draw(("comparable",), 256, rng), pacer.placement, pacer.prior, seed=0
    )
    images = world.fixed(("comparable",), 2048, seed=7)
    seen, fitted = _played(images(), pacer.prior)
    fewer = (fitted[:, None] < network(seen)).double().mean(dim=0)

    np.testing.assert_allclose(fewer, QUANTILES, atol=0.1)
    assert (Forecast(network.on_host())(images().moment())[:, 0] > 0).any()


@pytest.mark.parametrize(
    ("best", "decides"),
    [(AGENT, "agent"), (FORESEES, "forecast"), (RULE, "rule"), (START, "forecast")],
)
def test_who_decides_is_the_agent_only_where_nothing_simpler_is_better(
    world: World, pacer: Pacer, best: str, decides: str
) -> None:
    def waits(moment: Moment) -> Any:
        return np.full(len(moment.left), moment.step == 0)

    contenders: dict[str, Decide] = {name: waits for name in (START, RULE, FORESEES, AGENT)}

    judgement = judged(world, ["slow"], contenders | {best: pacer.rule}, seed=0)

    assert judgement.decides == decides
    assert judgement.facts()["decides"] == decides


def test_a_pacer_decides_by_what_was_judged_best(pacer: Pacer) -> None:
    kinds = {"rule": Replanning, "forecast": Foreseeing, "agent": Agent}
    for name, kind in kinds.items():
        pacing = replace(pacer.pacing, decides=cast(Any, name), kept_back=0.5)
        assert isinstance(replace(pacer, pacing=pacing).decide, kind)
        assert replace(pacer, pacing=pacing).foreseeing.margin == 0.5
    with pytest.raises(ArtifactError, match="decides must be one of rule, forecast, agent"):
        read_fields(Pacing, {**pacer.to_dict(), "decides": "chance"}, "pacer")
