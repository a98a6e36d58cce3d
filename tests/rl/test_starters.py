"""Every starter is an environment of its pipeline, as diffusers has it, but for its weights."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.zoo.pipelines import PIPELINES
from ditcache_rl.config import EnvConfig, load_env, shipped_starters
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.rl import DenoiseEnv
from tests.kit.environment import tiny_scenario
from tests.kit.texts import reading_pipe

#: Class of the pipeline of each.
STARTERS = {
    "starters/flux-dev": "FluxPipeline",
    "starters/qwen-image": "QwenImagePipeline",
    "starters/sd35-large": "StableDiffusion3Pipeline",
    "starters/sdxl": "StableDiffusionXLPipeline",
    "starters/wan21-1b": "WanPipeline",
}
#: What makes a call large.
SIZES = ("height", "width", "num_frames")


def shrunk(config: EnvConfig, kind: str) -> EnvConfig:
    """Take the size of a call away that the tiny pipeline cannot have."""
    side = PIPELINES[kind].sides[0]
    small = {"height": side, "width": side, "num_frames": 5}
    sizes = {name: small[name] for name in SIZES if name in config.pipeline.call}
    pipeline = replace(config.pipeline, call={**config.pipeline.call, **sizes})
    return replace(config, steps=[4], pipeline=pipeline, agent=replace(config.agent, rows=2))


def test_every_starter_has_a_pipeline_to_be_checked_with() -> None:
    assert shipped_starters() == list(STARTERS)


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_names_what_its_pipeline_takes(name: str) -> None:
    config = load_env(name)

    taken = inspect.signature(getattr(diffusers, STARTERS[name]).__call__).parameters
    assert config.pipeline.call.keys() <= taken.keys()
    assert f"# {STARTERS[name]}, " in config.path.read_text()
    assert f"starters/{config.name}" == name


@pytest.mark.filterwarnings("ignore")  # diffusers deprecates arguments of its own pipelines
@pytest.mark.parametrize("name", STARTERS)
def test_gymnasium_finds_nothing_to_complain_about_in_a_starter(name: str) -> None:
    config, pipe = shrunk(load_env(name), STARTERS[name]), reading_pipe(STARTERS[name])
    scenario = tiny_scenario(config, pipe)
    scenario.board.blocks = config.cache.blocks
    env = DenoiseEnv(scenario=scenario)

    check_env(env)
    env.close()

    assert set(denoisers_of(pipe, config.cache.blocks)) <= set(config.cache.blocks.split(","))
    cases = env._cases[:2]
    images = scenario.board.references(cases)
    assert images.shape[:2] == (2, 3)
    assert np.isfinite(scenario.board.judge(images, cases).psnr_db).all()


def test_starters_share_the_general_prompts(tmp_path: Path) -> None:
    every: list[Any] = []
    for name in STARTERS:
        every.append([load_env(name).read_prompts(part) for part in ("train", "select", "test")])

    assert [len(part) for part in every[0]] == [120, 40, 40]
    assert all(one == every[0] for one in every)
    assert len({prompt for part in every[0] for prompt in part}) == 200
