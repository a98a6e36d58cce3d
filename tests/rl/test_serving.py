from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3

from ditcache_rl.errors import ShapeError, StateError
from ditcache_rl.queueing import FittingPrice, FixedSchedule, Machines, Traffic, serve
from ditcache_rl.queueing.rules import at_price
from ditcache_rl.rl import ServeEnv, ServeVecEnv, Service
from ditcache_rl.rl.serve_learn import ForeseeingVecEnv, LearnedPrice, coming, learn_prices
from ditcache_rl.rl.serving import OFFERED_DB, PricedMachines, PriceView
from tests.kit.queueing import BATCHY, LINEAR, fronts, queue

FRONTS = fronts()
SERVICE = Service(FRONTS, BATCHY, loads=(1.0, 3.0), requests=8)


def test_the_environment_passes_the_checks_of_gymnasium_and_sb3() -> None:
    env = gym.make("ditcache/serve-v0")

    check_env(env.unwrapped, skip_render_check=True)
    check_sb3(env)


def test_it_can_be_made_with_another_service() -> None:
    env = gym.make("ditcache/serve-v0", service=SERVICE)

    observation, _ = env.reset(seed=1)
    assert observation.shape == (len(SERVICE.observation_names()),)
    ended = False
    while not ended:
        _, _, ended, _, info = env.step(np.int64(3))
    assert 0.0 < info["psnr_db"] <= 50.0
    assert info["served_share"] <= 1.0
    with pytest.raises(StateError, match="expected reset"):
        env.unwrapped.step(np.int64(3))


def test_a_seed_gives_the_same_trace() -> None:
    first, second = ServeEnv(SERVICE), ServeEnv(SERVICE)

    assert (first.reset(seed=7)[0] == second.reset(seed=7)[0]).all()
    for _ in range(10):
        one, other = first.step(np.int64(5)), second.step(np.int64(5))
        assert (one[0] == other[0]).all()
        assert one[1:4] == other[1:4]


def test_rewards_of_a_trace_are_what_its_images_lost() -> None:
    priced = PricedMachines(SERVICE, np.random.default_rng(0), 3)
    # What had come before the first tick was worth as much from the start.
    earned, rng = np.zeros(3), np.random.default_rng(1)

    while not priced.machines.done.all():
        earned += priced.play(rng.integers(len(OFFERED_DB), size=3))

    psnr_db = priced.machines.served.psnr_db
    assert 10 * earned == pytest.approx(psnr_db.sum(axis=1) - psnr_db.shape[1] * 50.0, abs=1e-6)


def test_what_is_seen_is_the_pressure_at_every_price() -> None:
    # Two rows with four computes each, and time for seven.
    service = Service(FRONTS, LINEAR)
    view = PriceView.of(queue((0, 0, 7.0), (0, 0, 7.0)), service)
    names = service.observation_names()

    fresh = at_price(FRONTS.fresh_db, OFFERED_DB)
    expected = np.exp(view.observation[0, : len(OFFERED_DB)] / 3)
    assert expected == pytest.approx(2 * fresh / 7.0)
    assert (view.grants[0] == fresh).all()
    assert view.observation[0, names.index("active_share")] == 1.0
    lost = view.observation[0, len(OFFERED_DB) : 2 * len(OFFERED_DB)]
    assert lost == pytest.approx((50.0 - FRONTS.fresh_db[fresh]) / 10)


def test_prices_beyond_one_at_which_no_row_computes_are_masked() -> None:
    view = PriceView.of(queue((3, 2, 7.0)), Service(FRONTS, LINEAR))

    # The last step is worth its 6.9 dB: 10 dB times the logarithm of 2.
    cheap = 10 * np.log(2) > OFFERED_DB
    assert view.grants[0, 0].tolist() == cheap.astype(int).tolist()
    assert view.masks[0].tolist() == [True, *cheap[:-1].tolist()]


def test_rows_of_the_vectorised_environment_are_environments() -> None:
    many = ServeVecEnv(SERVICE, 4, np.random.default_rng(0))
    seen = many.reset()
    assert isinstance(seen, np.ndarray)
    ends = np.zeros(4)

    for _ in range(120):
        assert np.stack(many.env_method("action_masks")).shape == (4, len(OFFERED_DB))
        seen, rewards, dones, infos = many.step(np.full(4, 6))
        assert isinstance(seen, np.ndarray)
        assert np.isfinite(rewards).all()
        for row in np.flatnonzero(dones):
            assert {"psnr_db", "terminal_observation"} <= set(infos[row])
        ends += dones

    assert (ends >= 2).all()
    many.close()


def test_a_machine_that_begins_anew_is_seen_as_it_is() -> None:
    priced = PricedMachines(SERVICE, np.random.default_rng(0), 4)
    for _ in range(5):
        priced.play(np.full(4, 3))

    priced.restart(np.array([1, 2]))

    seen = PriceView.of(priced.machines.queue, SERVICE)
    for own, new in zip(priced.view, seen, strict=True):
        np.testing.assert_array_equal(own, new)


def test_a_price_that_is_none_is_refused() -> None:
    env = ServeEnv(SERVICE)
    with pytest.raises(StateError, match="reset"):
        env.action_masks()
    env.reset(seed=0)

    wrongs: list[Any] = [np.int64(16), np.int64(-1), 3.0, np.array([3])]
    for wrong in wrongs:
        with pytest.raises(
            ShapeError, match=r"integers of shape \(\), a price in \[0, 15\], received"
        ):
            env.step(wrong)
    many = ServeVecEnv(SERVICE, 2, np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"received float64 of shape \(2,\)"):
        many.step_async(np.array([1.0, 2.5]))


def test_the_critic_sees_who_will_come() -> None:
    requests = Traffic(np.array([[0.0, 5.0, 9.0, 30.0]]), np.full((1, 4), 99.0))
    machines = Machines(requests, FRONTS, LINEAR, together=True)

    # An image takes 4 seconds; spans are a quarter, a half, 1, 2, 4 and 8 of that.
    assert coming(machines)[0] == pytest.approx(np.log1p([0, 0, 0, 1, 2, 3]))


def test_the_actor_does_not_see_who_will_come() -> None:
    env = ForeseeingVecEnv(SERVICE, 4, np.random.default_rng(0))
    seen, known = env.reset(), len(SERVICE.observation_names())
    assert isinstance(seen, np.ndarray)
    actor = learn_prices(SERVICE, 1, seed=0).actor

    assert seen.shape[1:] == env.observation_space.shape
    assert seen.shape[1] > known
    assert actor(torch.from_numpy(seen[:, :known])).shape == (4, len(OFFERED_DB))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        actor(torch.from_numpy(seen))


@pytest.mark.slow
def test_an_agent_learns_to_set_prices() -> None:
    service = Service(FRONTS, BATCHY, loads=(4.0,), requests=8)
    heard: list[float] = []

    agent = learn_prices(
        service, 128 * 512, seed=0, on_ticks=lambda _, psnr_db: heard.extend(psnr_db)
    )

    assert isinstance(agent, LearnedPrice)
    requests = service.traffic(np.random.default_rng(9), 50)
    learned, careless, fitting = (
        serve(requests, rule, FRONTS, BATCHY, together=True).psnr_db.mean()
        for rule in (agent, FixedSchedule(4), FittingPrice(FRONTS, BATCHY, together=True))
    )
    assert len(heard) > 100
    assert learned > careless
    assert learned > fitting - 1.0  # it has had 32 updates
