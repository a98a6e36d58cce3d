from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.zoo.checks import STEPS as ZOO_STEPS
from benchmarks.zoo.pipelines import build, pipeline_unit
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.taps import taps_of
from ditcache_rl.policy.engines import export_cache_dit
from ditcache_rl.schedules import Schedule
from ditcache_rl.search.engines import ENGINES, search_under, under_dpcache
from tests.kit.pipelines import GUIDANCE, PROMPTS, build_tiny_pipe, draw

STEPS = 8
CASES = [Case(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
SCHEDULE = Schedule.on_path((0, 1, 2), STEPS)


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_that_are_found_lose_no_more_than_those_that_were_given(
    engine: str, tiny_call: dict[str, Any]
) -> None:
    if engine == "cache-dit":
        pytest.importorskip("cache_dit")
    board = Board(build_tiny_pipe(), STEPS, sites=1, call=tiny_call, blocks="transformer")
    run, always = ENGINES[engine]
    rng, tried = np.random.default_rng(0), list[None]()

    found = search_under(
        run,
        board,
        CASES,
        SCHEDULE,
        evaluations=6,
        rng=rng,
        always=always,
        on_path=lambda: tried.append(None),
    )

    assert found.schedule.computes == SCHEDULE.computes
    assert set(always) <= set(found.schedule.path)
    assert found.found_db >= found.same_db
    assert 1 < len(tried) <= 6
    with run(board.pipe, found.schedule, found.calls):
        images = board.draw(CASES).images
    assert board.judge(images, CASES).psnr_db.mean() == pytest.approx(found.found_db)
    torch.testing.assert_close(board.draw(CASES).images, board.references(CASES), rtol=0, atol=0)


@pytest.mark.parametrize("guidance", [{}, GUIDANCE])
def test_cache_dit_is_searched_and_exported_for_the_calls_of_a_step(
    guidance: dict[str, Any], tiny_call: dict[str, Any], tmp_path: Path
) -> None:
    cache_dit = pytest.importorskip("cache_dit")
    pipe, calls = build_tiny_pipe(), 2 if guidance else 1
    board = Board(pipe, STEPS, sites=1, call={**tiny_call, **guidance}, blocks="transformer")
    run, always = ENGINES["cache-dit"]
    rng, executed = np.random.default_rng(0), list[tuple[int, ...]]()
    blocks = pipe.transformer.single_transformer_blocks

    @contextmanager
    def noted(pipe: Any, schedule: Schedule, calls: Set[int]) -> Iterator[None]:
        steps = list[int]()
        # The first block of all decides, so it runs at every step; the last one tells.
        handle = blocks[-1].register_forward_hook(
            lambda *given: steps.append(pipe.scheduler.step_index or 0)
        )
        with run(pipe, schedule, calls):
            yield
        handle.remove()
        assert not steps or sorted(steps) == sorted(schedule.path * max(calls))
        executed.append(tuple(steps))

    found = search_under(noted, board, CASES, SCHEDULE, evaluations=3, rng=rng, always=always)
    export_cache_dit(found.schedule, tmp_path / "cache.yaml", calls=found.calls)

    assert found.calls == {calls}
    assert len(executed) > 2
    assert all(executed[1:])
    cache_dit.enable_cache(pipe, **cache_dit.load_configs(str(tmp_path / "cache.yaml")))
    try:
        images = board.draw(CASES).images
    finally:
        cache_dit.disable_cache(pipe)
    assert board.judge(images, CASES).psnr_db.mean() == pytest.approx(found.found_db)


def test_an_engine_refuses_before_anything_is_drawn(
    tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(build_tiny_pipe(), STEPS, sites=1, call=tiny_call, blocks="transformer")

    def drawn(*given: Any) -> Any:
        raise AssertionError("something was drawn")

    def absent(*given: Any) -> Any:
        raise ConfigError("not installed")

    monkeypatch.setattr(board, "draw", drawn)

    with pytest.raises(ConfigError, match="not installed"):
        search_under(absent, board, CASES, SCHEDULE, evaluations=2, rng=np.random.default_rng(0))


def test_a_run_that_an_engine_computes_whole_is_not_searched(tiny_call: dict[str, Any]) -> None:
    board = Board(build_tiny_pipe(), 1, sites=1, call=tiny_call, blocks="transformer")
    run, always = ENGINES["dpcache"]

    with pytest.raises(ConfigError, match="expected a run of at least 2 steps"):
        search_under(
            run,
            board,
            CASES,
            Schedule.from_text("C"),
            evaluations=2,
            rng=np.random.default_rng(0),
            always=always,
        )


@pytest.mark.parametrize("guidance", [{}, GUIDANCE])
def test_dpcache_draws_lines_by_step_through_what_the_last_block_returned(
    guidance: dict[str, Any],
) -> None:
    pipe, path = build_tiny_pipe(), (0, 1, 3)
    transformer = pipe.transformer
    last = transformer.single_transformer_blocks[-1]
    features, found = list[tuple[int, Any]](), list[tuple[int, Any]]()
    calls = 2 if guidance else 1

    def note(module: Any, given: Any, output: Any) -> None:
        features.append((pipe.scheduler.step_index or 0, output[1]))

    handles = [
        last.register_forward_hook(note),
        transformer.norm_out.register_forward_pre_hook(
            lambda module, given: found.append((pipe.scheduler.step_index or 0, given[0]))
        ),
    ]
    with under_dpcache(pipe, Schedule.on_path(path, 5), {calls}):
        draw(pipe, steps=5, **guidance)
    for handle in handles:
        handle.remove()

    assert [step for step, _ in features] == [step for step in path for _ in range(calls)]
    for branch in range(calls):
        known = dict(features[branch::calls])
        reached = dict(found[branch::calls])
        for step, (i, j) in {2: (0, 1), 4: (1, 3)}.items():
            expected = known[j] + (known[j] - known[i]) * (step - j) / (j - i)
            torch.testing.assert_close(reached[step], expected)
    assert not taps_of(last)


@pytest.mark.parametrize("name", ["DiTPipeline", "PixArtAlphaPipeline"])
def test_dpcache_knows_the_step_of_schedulers_that_do_not_tell_it(name: str) -> None:
    pipe, executed = build(name), list[int]()
    assert not hasattr(pipe.scheduler, "step_index")
    unit, path = pipeline_unit(name, pipe), (0, 1, 3)
    hook = pipe.transformer.transformer_blocks[-1].register_forward_hook(
        lambda *given: executed.append(0)
    )

    with under_dpcache(pipe, Schedule.on_path(path, ZOO_STEPS), {1}):
        for _ in range(2):
            unit.draw([1], False)
    hook.remove()

    assert len(executed) == 2 * len(path)
