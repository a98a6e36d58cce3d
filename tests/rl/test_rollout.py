import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, StaticSchedule, uniform_decision
from ditcache_rl.errors import StateError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.rl import Finished, Rollout
from ditcache_rl.types import Decision, Mode, RunInfo, StepInfo
from tests.kit.laws import Walk, random_signals
from tests.kit.pipelines import STEPS, draw, draw_under

RUN = RunInfo(3, np.linspace(1, 0, 4), 2, 1)
DECISION = uniform_decision(RUN, Mode.COMPUTE)


def rollout_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ditcache-rollout"]


@pytest.fixture(autouse=True)
def no_worker_stays() -> Any:
    """Also daemon threads have to be gone, at once and not after a while."""
    assert not rollout_threads()
    yield
    assert not rollout_threads()


def walk(controller: Controller, *, steps: int = 3) -> str:
    """Stand in for a pipeline's call."""
    Walk(controller, random_signals(steps=steps, rows=2, sites=1), range(2)).to_the_end()
    return "an image"


def play(rollout: Rollout[Any], decide: Callable[[StepInfo], Decision]) -> Any:
    event = rollout.start()
    while not isinstance(event, Finished):
        event = rollout.advance(decide(event))
    return event.result


def test_the_result_of_the_call_comes_back_after_its_last_step() -> None:
    rollout = Rollout(walk)

    steps = []
    event = rollout.start()
    while isinstance(event, StepInfo):
        steps.append(event.step)
        event = rollout.advance(DECISION)

    assert steps == [0, 1, 2]
    assert event == Finished("an image")


def test_a_call_without_steps_finishes_at_once() -> None:
    rollout = Rollout(lambda controller: 7)

    assert rollout.start() == Finished(7)
    with pytest.raises(StateError):
        rollout.advance(DECISION)


def test_decisions_from_outside_draw_what_the_same_schedule_draws(tiny_pipe: Any) -> None:
    modes = np.array([[0], [1], [0], [2], [1], [3]], dtype=np.int8)
    expected, _ = draw_under(tiny_pipe, StaticSchedule.of(modes))

    def call(controller: Controller) -> torch.Tensor:
        return draw_under(tiny_pipe, controller)[0]

    seen = []

    def decide(info: StepInfo) -> Decision:
        seen.append((info.step, info.history[0].valid.tolist()))
        return uniform_decision(info.run, Mode(modes[info.step, 0]))

    drawn = play(Rollout(call), decide)

    assert torch.equal(drawn, expected)
    assert seen == [(0, [0]), (1, [1]), (2, [1]), (3, [2]), (4, [2]), (5, [2])]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_an_exception_of_the_call_comes_out_of_the_advance_that_met_it(step: int) -> None:
    error = KeyError("from the call")

    def call(controller: Controller) -> None:
        signals = random_signals(steps=3, rows=2, sites=1)
        inner = Walk(controller, signals, range(2))
        for _ in range(step):
            inner.step()
        raise error

    rollout = Rollout(call)
    with pytest.raises(KeyError) as caught:
        play(rollout, lambda info: DECISION)

    assert caught.value is error
    assert not rollout_threads()
    with pytest.raises(StateError):
        rollout.advance(DECISION)
    rollout.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_is_no_error_comes_out_too(kind: type[BaseException]) -> None:
    def call(controller: Controller) -> None:
        raise kind

    with pytest.raises(kind):
        Rollout(call).start()


@pytest.mark.parametrize("steps_taken", [0, 1, 2])
def test_closing_midway_unwinds_the_call(steps_taken: int) -> None:
    left: list[str] = []

    def call(controller: Controller) -> None:
        try:
            walk(controller)
        except Exception:  # pragma: no cover - a pipeline may try, but this is not an error
            left.append("an error")
        finally:
            left.append("finally")

    rollout = Rollout(call)
    rollout.start()
    for _ in range(steps_taken):
        rollout.advance(DECISION)

    rollout.close()

    assert left == ["finally"]
    assert not rollout_threads()
    rollout.close()
    assert left == ["finally"]
    with pytest.raises(StateError, match="received one that has ended"):
        rollout.advance(DECISION)


def test_closing_midway_leaves_the_pipeline_as_it_was(tiny_pipe: Any) -> None:
    plain = draw(tiny_pipe)
    kind, keys = type(tiny_pipe), set(vars(tiny_pipe.transformer))
    cache = TieredCache()

    def call(controller: Controller) -> torch.Tensor:
        with BlockRunner(tiny_pipe, controller, cache):
            return draw(tiny_pipe)

    rollout = Rollout(call)
    event = rollout.start()
    for _ in range(STEPS // 2):
        assert isinstance(event, StepInfo)
        event = rollout.advance(uniform_decision(event.run, Mode.COMPUTE))
    assert cache.used_bytes > 0
    rollout.close()

    assert cache.used_bytes == 0
    assert type(tiny_pipe) is kind
    assert set(vars(tiny_pipe.transformer)) == keys
    assert torch.equal(draw(tiny_pipe), plain)


def test_a_call_that_catches_everything_is_unwound_all_the_same() -> None:
    attempts: list[int] = []

    def call(controller: Controller) -> str:
        for attempt in range(3):
            try:
                walk(controller)
            except BaseException:
                attempts.append(attempt)
        return "in the end"

    rollout = Rollout(call)
    rollout.start()
    closing = threading.Thread(target=rollout.close, daemon=True)
    closing.start()
    closing.join(5)

    assert attempts == [0, 1, 2]


def test_closing_before_the_start_or_after_the_end_does_nothing() -> None:
    Rollout(walk).close()

    finished = Rollout(walk)
    play(finished, lambda info: DECISION)
    finished.close()
    finished.close()


def test_closing_while_the_call_computes_waits_for_its_next_step_and_unwinds() -> None:
    computing, left = threading.Event(), threading.Event()

    def call(controller: Controller) -> None:
        inner = Walk(controller, random_signals(steps=3, rows=2, sites=1), range(2))
        try:
            inner.step()
            computing.set()
            time.sleep(0.05)  # a step of the transformer, which nobody can interrupt
            inner.step()
        finally:
            left.set()

    rollout = Rollout(call)
    rollout.start()
    # What an interrupt in the middle of `advance` leaves: the decision is on its way and the
    # answer is not there yet.
    stepping = threading.Thread(target=rollout._decisions.put, args=(DECISION,))
    stepping.start()
    stepping.join()
    assert computing.wait(5)

    rollout.close()

    assert left.is_set()


def test_two_rollouts_do_not_mix() -> None:
    seen: dict[str, list[int]] = {"one": [], "two": []}
    rollouts = {name: Rollout(walk) for name in seen}

    events = {name: rollout.start() for name, rollout in rollouts.items()}
    for _ in range(3):
        for name, rollout in rollouts.items():
            event = events[name]
            assert isinstance(event, StepInfo)
            seen[name].append(event.step)
            events[name] = rollout.advance(DECISION)

    assert seen == {"one": [0, 1, 2], "two": [0, 1, 2]}
    assert all(isinstance(event, Finished) for event in events.values())


def test_the_grad_mode_of_the_caller_is_not_that_of_the_call() -> None:
    def call(controller: Controller) -> bool:
        with torch.no_grad():
            walk(controller)
        return torch.is_grad_enabled()

    rollout = Rollout(call)
    rollout.start()
    assert torch.is_grad_enabled()
    rollout.close()
