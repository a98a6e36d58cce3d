import time
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.bench import Case, draw
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EveryK, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument import is_attached
from ditcache_rl.schedules import Schedule
from tests.kit.pipelines import PROMPTS

CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS, 3)]
CONTROLLERS = [None, AllCompute(), EveryK(2)]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_images_are_those_of_the_pipeline_in_order_and_on_the_cpu(
    controller: Controller | None, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    drawn = draw(tiny_pipe, CASES, controller, steps=4, call=tiny_call)

    expected = tiny_pipe(
        list(PROMPTS),
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=4,
        output_type="pt",
        **tiny_call,
    ).images
    assert drawn.images.shape == (2, 3, 64, 64)
    assert drawn.images.dtype == torch.float32
    assert drawn.images.device.type == "cpu"
    assert 0 <= drawn.images.min() <= drawn.images.max() <= 1
    assert torch.equal(drawn.images, expected) == (not isinstance(controller, EveryK))


def test_without_a_controller_there_is_no_log(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    assert draw(tiny_pipe, CASES, steps=2, call=tiny_call).log is None


def test_the_log_tells_what_was_done(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    log = draw(tiny_pipe, CASES, EveryK(2), steps=4, call=tiny_call, sites=2).log

    assert log is not None
    assert log.modes.shape == (4, 2, 2)
    assert log.compute_share.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("blocks", [None, "transformer"])
def test_rows_follow_schedules_of_their_own(
    blocks: str | None, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    schedules = [Schedule.from_text(text) for text in ("CRC1", "CCRR")]
    controller = StaticSchedule(*schedules)

    log = draw(tiny_pipe, CASES, controller, steps=4, call=tiny_call, blocks=blocks).log

    assert log is not None
    np.testing.assert_array_equal(log.modes, np.stack([s.modes for s in schedules], axis=1))


def test_residuals_are_kept_in_the_cache_that_is_given(
    tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    cache = TieredCache()

    draw(tiny_pipe, CASES, EveryK(2), steps=4, call=tiny_call, cache=cache)

    assert cache.stats.hits > 0
    assert cache.used_bytes == 0


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_what_is_timed_is_the_call_of_the_pipeline_alone(
    controller: Controller | None, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    inside: list[float] = []

    def note(*_: Any) -> dict[str, Any]:
        inside.append(time.perf_counter())
        return {}

    before = time.perf_counter()
    drawn = draw(
        tiny_pipe, CASES, controller, steps=4, call=tiny_call | {"callback_on_step_end": note}
    )
    after = time.perf_counter()

    assert inside[-1] - inside[0] <= drawn.seconds <= after - before


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_pipeline_that_fails_is_left_as_it_was(
    controller: Controller | None, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    attached: list[bool] = []

    def fail(pipe: Any, *_: Any) -> dict[str, Any]:
        attached.append(is_attached(pipe))
        raise ValueError("lost")

    kind = type(tiny_pipe)
    with pytest.raises(ValueError, match="lost"):
        draw(tiny_pipe, CASES, controller, steps=4, call=tiny_call | {"callback_on_step_end": fail})

    assert attached == [controller is not None]
    assert not is_attached(tiny_pipe)
    assert type(tiny_pipe) is kind
    assert "forward" not in tiny_pipe.transformer.__dict__


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_sequence_length": 99_999},
        {"max_sequence_length": -1},
        {"guidance_scale": "much"},
        {"prompt_2": 3},
        {"sights": 2},
    ],
)
def test_arguments_that_a_pipeline_refuses_are_named(
    wrong: dict[str, Any], tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    ((name, value),) = wrong.items()

    with pytest.raises(ConfigError, match=rf"takes, received .*{name}={value!r}.*: ") as caught:
        draw(tiny_pipe, CASES[:1], EveryK(2), steps=4, call=tiny_call | wrong)

    assert caught.value.__cause__ is not None
