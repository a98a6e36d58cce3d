import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import ditcache_rl.rl  # noqa: F401  (registers the shipped environments)
from ditcache_rl.cache import Caps
from ditcache_rl.config import load_env, shipped_envs
from ditcache_rl.control import ActionSpace
from ditcache_rl.errors import ConfigError, ShapeError, StateError
from ditcache_rl.rl import DenoiseEnv
from ditcache_rl.rl.episodes import project
from ditcache_rl.types import Mode, Tier
from tests.kit.environment import tiny_config, tiny_scenario

Action = NDArray[np.int64]


def tiny_denoise(pipe: Any, call: dict[str, Any], folder: Path, **options: Any) -> DenoiseEnv:
    return DenoiseEnv(scenario=tiny_scenario(tiny_config(folder, call, **options), pipe))


def cloudpickled(env: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(env))


def random_action(env: DenoiseEnv, rng: np.random.Generator) -> Action:
    """Draw among the actions that are allowed now."""
    masks, patterns = env.action_masks(), int(env.action_space.nvec[0])  # type: ignore[attr-defined]
    parts = masks[:patterns], masks[patterns:]
    return np.array([rng.choice(np.flatnonzero(part)) for part in parts])


def play(env: DenoiseEnv, action: Action | None, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Play an episode to its end, with one action or with random ones, and return every info."""
    infos, ended = [], False
    while not ended:
        chosen = random_action(env, rng) if action is None else action
        _, reward, ended, truncated, info = env.step(chosen)
        assert not truncated
        infos.append(info | {"reward": reward})
    return infos


def rollout_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "ditcache-rollout"]


@pytest.fixture
def registered(tiny_env: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the tiny environment for one test."""
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    gym.register(
        "ditcache/tiny-v0", "ditcache_rl.rl.env:DenoiseEnv", kwargs={"config": str(tiny_env)}
    )
    return "ditcache/tiny-v0"


def test_gymnasium_finds_nothing_to_complain_about(registered: str) -> None:
    env = gym.make(registered)

    check_env(env.unwrapped)
    env.close()

    assert not rollout_threads()


def test_a_whole_episode_passes_the_passive_checker(registered: str) -> None:
    env = gym.make(registered)  # wrapped in checkers that warn, and a warning is an error here

    env.reset(seed=0)
    ends = [env.step(np.array([0, 0]))[2] for _ in range(4)]
    env.close()

    assert ends == [False, False, False, True]


def test_the_default_environment_passes_the_checker_on_the_embedded_pipeline() -> None:
    env = gym.make("ditcache/shapes-v0").unwrapped

    check_env(env)
    env.close()

    assert not rollout_threads()


def test_every_shipped_environment_is_registered_on_import() -> None:
    ids = [load_env(name).id for name in shipped_envs()]

    assert "ditcache/shapes-v0" in ids
    assert set(ids) <= set(gym.registry)


def test_a_spec_survives_json() -> None:
    spec = gym.spec("ditcache/shapes-v0")

    read = EnvSpec.from_json(spec.to_json())

    assert read == spec
    assert read.kwargs == {"config": "shapes"}
    assert not read.nondeterministic


def test_two_copies_agree_exactly_step_by_step(registered: str) -> None:
    envs = [gym.make(registered).unwrapped for _ in range(2)]
    rng = np.random.default_rng(3)

    for episode in range(3):
        # Both are in the middle of an episode at the same time.
        seed = 7 if episode == 0 else None
        (obs_a, info_a), (obs_b, info_b) = (env.reset(seed=seed) for env in envs)
        np.testing.assert_array_equal(obs_a, obs_b)
        assert info_a == info_b
        ended = False
        while not ended:
            action = rng.integers([4, 2])
            (obs_a, *rest_a), (obs_b, *rest_b) = (env.step(action) for env in envs)
            np.testing.assert_array_equal(obs_a, obs_b)
            assert rest_a == rest_b
            ended = bool(rest_a[1])
    for env in envs:
        env.close()


@pytest.mark.parametrize("sites", [1, 3])
def test_allowed_actions_are_played_as_they_are_and_spend_the_budget_exactly(
    sites: int, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path, sites=sites, tradeoff_share=0.0)
    rng = np.random.default_rng(0)

    for seed in range(5):
        _, start = env.reset(seed=seed)
        infos = play(env, None, rng)

        assert len(infos) == 4
        assert not any(info["projected"] for info in infos)
        assert infos[-1]["compute_share"] * 4 * sites == pytest.approx(start["computes"])


@pytest.mark.parametrize("sites", [1, 3])
@pytest.mark.parametrize("pattern", list(Mode))
def test_a_stubborn_agent_is_projected_and_spends_the_budget_exactly(
    pattern: Mode, sites: int, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"sites": sites, "tradeoff_share": 0.0, "budgets": [0.5]}
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path, **options)
    _, start = env.reset(seed=1)

    infos = play(env, np.array([pattern, 0]), np.random.default_rng(0))

    # The first step must compute and the budget runs out after half of them.
    projected = [info["projected"] for info in infos]
    assert projected[0] == (pattern != Mode.COMPUTE)
    assert any(projected)
    assert infos[-1]["compute_share"] * 4 * sites == pytest.approx(start["computes"]) == 2 * sites


def test_dropping_the_first_residual_is_projected(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    env.reset(seed=0)

    first = env.step(np.array([Mode.COMPUTE, 1]))[-1]
    env.close()

    assert first["projected"]


def test_projection_takes_the_nearest_cost_and_the_first_of_equals() -> None:
    actions = ActionSpace.of(3, (Tier.DEVICE, Tier.DROP))
    # Costs of the patterns: 3, 0, 0, 0, 1, 1, 2, 2.
    masks = np.zeros((5, 10), dtype=bool)
    masks[:, 8:] = [False, True]
    masks[0, [1, 5]] = True
    masks[1, [2, 3]] = True
    masks[2, [0, 1]] = True
    masks[3, [6, 7]] = True
    wanted = np.array([[0, 0], [7, 1], [4, 0], [7, 1], [1, 1]])

    played = project(wanted, masks, actions)

    np.testing.assert_array_equal(played, [[5, 1], [2, 1], [1, 1], [7, 1], [0, 1]])


def test_a_cache_without_room_computes_everything(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call, tradeoff_share=0.0), tiny_pipe)
    board = scenario.board
    scenario.board = type(board)(tiny_pipe, 4, sites=1, call=tiny_call, caps=Caps(device_bytes=1))
    env = DenoiseEnv(scenario=scenario)
    env.reset(seed=0)

    last = play(env, np.array([Mode.REUSE, 0]), np.random.default_rng(0))[-1]

    assert last["compute_share"] == 1.0
    assert last["psnr_db"] == 60.0


@pytest.mark.parametrize("tradeoff_share", [0.0, 1.0])
def test_the_reward_is_terminal_and_follows_the_formula(
    tradeoff_share: float, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path, tradeoff_share=tradeoff_share)
    rng = np.random.default_rng(5)

    for seed in range(3):
        _, start = env.reset(seed=seed)
        *before, last = play(env, None, rng)

        assert [info["reward"] for info in before] == [0.0, 0.0, 0.0]
        assert (start["computes"] > 0) != (start["latency_weight"] > 0)
        # Time is counted in computed sites here; the weights are those of the environment.
        by_hand = 2.0 * last["psnr_db"] / 10 + 3.0 * last["ssim"]
        by_hand -= start["latency_weight"] * last["compute_share"]
        assert last["reward"] == pytest.approx(by_hand, abs=1e-9)
        terms = [last[f"reward/{name}"] for name in ("psnr", "ssim", "latency")]
        assert sum(terms) == pytest.approx(last["reward"], abs=1e-9)


def test_what_a_step_returns_stays_as_it_was(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    kept = [env.reset(seed=0)[0]]

    for _ in range(4):
        kept.append(env.step(np.array([Mode.COMPUTE, 0]))[0])

    assert not any(np.shares_memory(a, b) for i, a in enumerate(kept) for b in kept[:i])


def test_closing_in_the_middle_leaves_no_thread_and_no_trace(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    env.reset(seed=0)
    env.step(np.array([Mode.COMPUTE, 0]))
    assert rollout_threads()

    env.close()
    env.close()

    assert not rollout_threads()
    assert not any("forward" in module.__dict__ for module in tiny_pipe.transformer.modules())
    env.reset(seed=0)
    assert len(play(env, None, np.random.default_rng(0))) == 4


def test_resetting_in_the_middle_begins_anew(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    first, _ = env.reset(seed=0)
    env.step(np.array([Mode.COMPUTE, 0]))

    again, _ = env.reset(seed=0)

    np.testing.assert_array_equal(first, again)
    assert len(rollout_threads()) == 1
    env.close()


def test_an_error_of_the_pipeline_comes_out_of_step_and_a_reset_recovers(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    env.reset(seed=0)  # draws the reference before the transformer breaks
    calls = 0

    def break_at_the_third_action(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the first call comes with the reset
            raise ValueError("broken block")

    # Blocks that reuse are not called, the transformer is at every step.
    handle = tiny_pipe.transformer.register_forward_pre_hook(break_at_the_third_action)
    try:
        env.reset(seed=0)
        env.step(np.array([Mode.COMPUTE, 0]))
        env.step(np.array([Mode.COMPUTE, 0]))
        with pytest.raises(ValueError, match="broken block"):
            env.step(np.array([Mode.COMPUTE, 0]))
    finally:
        handle.remove()

    assert not rollout_threads()
    with pytest.raises(StateError):
        env.step(np.array([Mode.COMPUTE, 0]))
    env.reset(seed=0)
    assert len(play(env, None, np.random.default_rng(0))) == 4


def test_stepping_without_an_episode_is_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)

    with pytest.raises(StateError, match="call reset first"):
        env.step(np.array([0, 0]))
    with pytest.raises(StateError, match="call reset first"):
        env.action_masks()
    env.reset(seed=0)
    play(env, None, np.random.default_rng(0))
    with pytest.raises(StateError, match="call reset first"):
        env.step(np.array([0, 0]))


def test_two_environments_on_one_board_are_refused_not_left_waiting(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)
    running, other = DenoiseEnv(scenario=scenario), DenoiseEnv(scenario=scenario, part="test")
    running.reset(seed=0)

    with pytest.raises(StateError, match="attached"):
        other.reset(seed=0)

    running.close()
    other.reset(seed=0)
    other.close()


def test_frames_have_the_size_of_the_image_and_become_it(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)
    env = DenoiseEnv(scenario=scenario, render_mode="rgb_array")
    blind = DenoiseEnv(scenario=scenario)
    with pytest.raises(StateError, match="call reset first"):
        env.render()
    env.reset(seed=0)

    frames = [env.render()]
    for _ in range(4):
        env.step(np.array([Mode.COMPUTE, 0]))
        frames.append(env.render())

    assert blind.render() is None
    drawn = [frame for frame in frames if frame is not None]
    assert [frame.shape for frame in drawn] == [(tiny_call["height"], tiny_call["width"], 3)] * 5
    assert {frame.dtype for frame in drawn} == {np.dtype(np.uint8)}
    assert drawn[0].max() == 0
    assert all((a != b).any() for a, b in itertools.pairwise(drawn))
    # Every prediction is nearer to what it becomes than the one before.
    errors = [np.abs(frame.astype(float) - drawn[-1]).mean() for frame in drawn[1:]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_looking_changes_nothing(tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_config(tmp_path, tiny_call), tiny_pipe)
    seen = DenoiseEnv(scenario=scenario, render_mode="rgb_array")
    runs = []
    for env in (DenoiseEnv(scenario=scenario), seen):
        run = [env.reset(seed=3)[0]]
        rng = np.random.default_rng(0)
        ended = False
        while not ended:
            env.render()
            obs, reward, ended, _, _ = env.step(random_action(env, rng))
            run += [obs, np.array([reward])]
        runs.append(np.concatenate(run))

    np.testing.assert_array_equal(runs[0], runs[1])
    assert "step" not in vars(tiny_pipe.scheduler)


def test_an_unknown_way_to_render_is_refused(tiny_env: Path) -> None:
    with pytest.raises(ConfigError, match="None or 'rgb_array', received 'human'"):
        DenoiseEnv(str(tiny_env), render_mode="human")


@pytest.mark.parametrize(
    ("action", "received"),
    [
        ([4, 0], "int64 of shape (2,): [4, 0]"),
        ([0, 2], "int64 of shape (2,): [0, 2]"),
        ([-1, 0], "int64 of shape (2,): [-1, 0]"),
        ([0.0, 0.0], "float64 of shape (2,): [0.0, 0.0]"),
        ([True, False], "bool of shape (2,)"),
        (0, "int64 of shape (): 0"),
        ([[0, 0]], "int64 of shape (1, 2)"),
        (None, "object of shape ()"),
    ],
)
def test_an_action_outside_of_the_space_is_refused_and_nothing_is_played(
    action: Any, received: str, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path)
    env.reset(seed=0)

    with pytest.raises(ShapeError) as caught:
        env.step(action)

    assert "shape (2,), a pattern in [0, 3] and a tier in [0, 1]" in str(caught.value)
    assert received in str(caught.value)
    assert len(play(env, None, np.random.default_rng(0))) == 4


@pytest.mark.parametrize("when", ["before", "running", "after"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env)), cloudpickled]
)
def test_a_copy_is_a_new_environment_of_the_same_arguments(
    when: str, copied: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]], registered: str
) -> None:
    env = gym.make(registered, steps=6, part="test", render_mode="rgb_array")
    if when != "before":
        env.reset(seed=5)
        env.step(np.array([0, 0]))
    if when == "after":
        env.close()

    other = copied(env)

    assert (other.spec, other.unwrapped.spec) == (env.spec, env.unwrapped.spec)
    assert (other.render_mode, other.observation_space) == ("rgb_array", env.observation_space)
    first, again = env.reset(seed=9), other.reset(seed=9)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    env.close()
    other.close()


@pytest.mark.parametrize("sites", [1, 3])
def test_observations_and_actions_have_a_name_each(
    sites: int, tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    env = tiny_denoise(tiny_pipe, tiny_call, tmp_path, sites=sites)

    obs, info = env.reset(seed=1)
    named = dict(zip(env.observation_names, obs, strict=True))
    patterns, tiers = env.action_names
    env.close()

    assert (len(patterns), len(tiers)) == tuple(env.action_space.nvec)  # type: ignore[attr-defined]
    assert named["budget_share"] == pytest.approx(info["computes"] / (4 * sites))
    assert named["latency_weight"] == pytest.approx(info["latency_weight"] / 2)
    assert patterns[:4] == ("compute", "reuse", "forecast1", "forecast2")
    assert tiers == ("device", "drop")
    if sites == 3:
        assert patterns[4:6] == ("1 compute, 2 forecast1", "2 forecast1, 1 compute")


def test_steps_that_the_environment_does_not_have_are_refused(tiny_env: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps among \[4, 6\], received 5"):
        DenoiseEnv(str(tiny_env), steps=5)


def test_the_second_step_count_has_longer_episodes(tiny_env: Path) -> None:
    env = DenoiseEnv(str(tiny_env), steps=6)
    env.reset(seed=0)

    assert len(play(env, None, np.random.default_rng(0))) == 6
