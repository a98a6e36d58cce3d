"""Other engines load what is written for them, and compute just the steps of the schedule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import MagCacheConfig

from ditcache_rl.errors import ConfigError
from ditcache_rl.policy.engines import export_cache_dit, export_dpcache, export_mag_cache
from ditcache_rl.schedules import Schedule
from tests.kit.doubles import fitted_schedule
from tests.kit.pipelines import build_tiny_pipe, draw

SCHEDULES = [fitted_schedule(6, (0, 2, 5)), Schedule.from_text("CRCRRC"), Schedule.from_text("CC1")]
REQUEST = {
    "pipeline": "FluxPipeline",
    "checkpoint": "some/revision",
    "height": 64,
    "width": 64,
    "guidance_scale": 3.5,
}


@pytest.mark.parametrize("schedule", SCHEDULES[:2])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_cache_dit_executes_exactly_the_steps_of_an_exported_schedule(
    schedule: Schedule, guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIT_LOG_LEVEL", "error")
    cache_dit = pytest.importorskip("cache_dit")
    file, pipe = tmp_path / "cache.yaml", build_tiny_pipe()
    notes = export_cache_dit(schedule, file, calls={2 if guidance > 1 else 1})
    executed, step = list[int](), [-1]
    # The first block of all decides, so it runs at every step; the last one tells.
    blocks = pipe.transformer.single_transformer_blocks
    blocks[-1].register_forward_hook(lambda *given: executed.append(step[0]))
    pipe.transformer.transformer_blocks[0].register_forward_hook(
        lambda *given: step.__setitem__(0, pipe.scheduler.step_index or 0)
    )
    cache_dit.enable_cache(pipe, **cache_dit.load_configs(str(file)))
    try:
        draw(pipe, steps=6, true_cfg_scale=guidance, negative_prompt="a ring")
    finally:
        cache_dit.disable_cache(pipe)

    assert sorted(set(executed)) == list(schedule.path)
    assert len(executed) == len(schedule.path) * (2 if guidance > 1 else 1)
    assert len(notes) == 2 + bool((schedule.modes > 1).any())


@pytest.mark.parametrize("calls", [{3}, {1, 2}])
def test_cache_dit_can_tell_one_call_a_step_or_two(calls: set[int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one call of the denoiser at every step, or"):
        export_cache_dit(SCHEDULES[0], tmp_path / "file", calls=calls)

    export_cache_dit(SCHEDULES[0], tmp_path / "file")
    assert "enable_separate_cfg" not in (tmp_path / "file").read_text()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_mag_cache_executes_exactly_the_steps_of_an_exported_schedule(
    schedule: Schedule, guidance: float, tmp_path: Path
) -> None:
    file, pipe = tmp_path / "mag.json", build_tiny_pipe()
    notes = export_mag_cache(schedule, file)
    executed = list[int]()
    pipe.transformer.enable_cache(MagCacheConfig(**json.loads(file.read_text())))
    # A block between the first and the last: its own forward runs where it computes, and only then.
    block = pipe.transformer.transformer_blocks[1]
    plain = block.attn.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        executed.append(pipe.scheduler.step_index or 0)
        return plain(*args, **kwargs)

    block.attn.forward = forward
    for _ in range(2):  # the state of a run ends with it
        executed.clear()
        draw(pipe, steps=schedule.steps, true_cfg_scale=guidance, negative_prompt="a ring")

        assert sorted(set(executed)) == list(schedule.path)
        assert len(executed) == len(schedule.path) * (2 if guidance > 1 else 1)
    assert len(notes) == 2 + bool((schedule.modes > 1).any())


def test_a_schedule_for_dpcache_is_what_its_reader_asks_for(tmp_path: Path) -> None:
    schedule, sigmas = fitted_schedule(12, (0, 2, 5, 9)), np.linspace(1, 0, 13)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)

    notes = export_dpcache(
        schedule, sigmas, tmp_path / "a.json", scheduler=scheduler, request=REQUEST
    )

    written = json.loads((tmp_path / "a.json").read_text())
    request = written["request"]
    assert written["full_steps"] == [0, 1, 2, 5, 9]
    assert written["num_full_steps"] == 5
    assert written["mandatory_full_steps"] == [0, 1]
    assert set(request) == {
        *REQUEST,
        *("num_inference_steps", "do_classifier_free_guidance", "quality", "attention_backend"),
        *("dtype", "scheduler", "scheduler_config_sha256", "timesteps", "sigmas"),
    }
    assert len(request["sigmas"]) == request["num_inference_steps"] + 1 == 13
    assert request["timesteps"][0] == 1000
    assert len(request["scheduler_config_sha256"]) == 64
    assert len(written["calibration"]["manifest_sha256"]) == 64
    assert any("step 1 is computed too: 5 steps in place of 4" in note for note in notes)


def test_what_a_request_must_match_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="received no height, width"):
        export_dpcache(
            SCHEDULES[0],
            np.linspace(1, 0, 7),
            tmp_path / "a.json",
            scheduler=FlowMatchEulerDiscreteScheduler(),
            request={name: REQUEST[name] for name in REQUEST if name not in ("height", "width")},
        )


def test_a_run_of_one_step_has_nothing_for_dpcache_to_leave_out(tmp_path: Path) -> None:
    file, scheduler = tmp_path / "a.json", FlowMatchEulerDiscreteScheduler()

    with pytest.raises(ConfigError, match=r"expected a run of at least 2 steps.* received 1; such"):
        export_dpcache(
            Schedule.from_text("C"),
            np.array([1.0, 0.0]),
            file,
            scheduler=scheduler,
            request=REQUEST,
        )
    assert not file.exists()

    sigmas = np.linspace(1, 0, 3)
    export_dpcache(Schedule.from_text("CR"), sigmas, file, scheduler=scheduler, request=REQUEST)
    assert json.loads(file.read_text())["full_steps"] == [0, 1]


def test_engines_that_decide_by_step_take_one_site(tmp_path: Path) -> None:
    for export in (export_cache_dit, export_mag_cache):
        with pytest.raises(ConfigError, match="received 2 sites"):
            export(Schedule.from_text("CRC | CC1"), tmp_path / "file")
