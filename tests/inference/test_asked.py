import asyncio
import contextvars
import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ditcache_rl as dc
from ditcache_rl.control import EveryK
from ditcache_rl.errors import BudgetError, ConfigError, StateError
from ditcache_rl.files import parse_json
from ditcache_rl.inference import Target, TargetsByRow
from ditcache_rl.instrument import Ranks
from ditcache_rl.policy import Policy
from tests.kit.environment import PROMPTS, untrained_policy


@pytest.fixture
def policy(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    return untrained_policy(tiny_pipe, tiny_call)


@pytest.fixture
def run(tiny_pipe: Any, policy: Policy) -> Iterator[dc.Run]:
    run = dc.attach(tiny_pipe, policy, budget=0.5)
    yield run
    run.detach()


def draw(pipe: Any, call: dict[str, Any], *, steps: int = 4, **options: Any) -> Tensor:
    images: Tensor = pipe(
        PROMPTS["test"][0],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **call,
        **options,
    ).images
    return images


def done(run: dc.Run) -> list[tuple[str, float]]:
    return [(str(log.target), float(log.compute_share[0])) for log in run.logs]


def test_a_block_asks_for_something_else_and_what_was_before_holds_again(
    tiny_pipe: Any, tiny_call: dict[str, Any], run: dc.Run
) -> None:
    draw(tiny_pipe, tiny_call)
    with dc.target(budget=0.25):
        draw(tiny_pipe, tiny_call)
        with dc.target(speedup=1.0):
            draw(tiny_pipe, tiny_call)
        draw(tiny_pipe, tiny_call)
    with pytest.raises(KeyError), dc.target(budget=0.25):
        raise KeyError
    draw(tiny_pipe, tiny_call)

    half, quarter, full = ("budget=0.5", 0.5), ("budget=0.25", 0.25), ("speedup=1.0", 1.0)
    assert done(run) == [half, quarter, full, quarter, half]
    (line,) = [line for line in run.summary().splitlines() if line.startswith("targets")]
    assert line == "targets       2 of budget=0.5, 2 of budget=0.25, 1 of speedup=1.0"


def test_what_is_asked_for_is_drawn_as_by_whoever_attached_for_it(
    tiny_pipe: Any, tiny_call: dict[str, Any], policy: Policy, run: dc.Run
) -> None:
    with dc.target(budget=0.25):
        asked = draw(tiny_pipe, tiny_call)
    run.detach()

    with dc.cached(tiny_pipe, policy, budget=0.25):
        assert torch.equal(draw(tiny_pipe, tiny_call), asked)


def test_a_session_has_a_target_of_its_own_and_so_have_those_made_of_it(
    tiny_pipe: Any, tiny_call: dict[str, Any], run: dc.Run
) -> None:
    own = dc.session(tiny_pipe, budget=0.25)
    draw(own, tiny_call)
    draw(dc.session(own), tiny_call)
    draw(dc.session(own, budget=1.0), tiny_call)
    draw(dc.session(tiny_pipe), tiny_call)
    with dc.target(budget=0.75):
        draw(own, tiny_call)

    assert [share for _, share in done(run)] == [0.25, 0.25, 1.0, 0.5, 0.75]
    plain = copy.copy(own)
    run.detach()
    assert not [name for name in {**vars(own), **vars(plain)} if name.startswith("_ditcache_rl")]


def test_a_session_that_is_attached_is_asked_for_what_it_is_attached_for(
    tiny_pipe: Any, tiny_call: dict[str, Any], policy: Policy, run: dc.Run
) -> None:
    own = dc.session(tiny_pipe, budget=0.25)

    with dc.cached(own, policy, budget=0.75) as other:
        draw(own, tiny_call)
    with dc.cached(own, EveryK(2)):
        draw(own, tiny_call)

    assert done(other) == [("budget=0.75", 0.75)]
    assert not run.logs


def test_what_a_session_is_asked_for_is_not_asked_of_what_its_callbacks_run(
    tiny_pipe: Any, tiny_call: dict[str, Any], run: dc.Run
) -> None:
    own, other = dc.session(tiny_pipe, budget=0.25), dc.session(tiny_pipe)

    def meanwhile(pipe: Any, step: int, timestep: Any, kwargs: Any) -> dict[str, Any]:
        if step == 1:
            draw(other, tiny_call)
        return {}

    draw(own, tiny_call, callback_on_step_end=meanwhile)

    assert done(run) == [("budget=0.5", 0.5), ("budget=0.25", 0.25)]


def test_threads_and_tasks_each_ask_for_their_own(
    tiny_pipe: Any, tiny_call: dict[str, Any], run: dc.Run
) -> None:
    async def one(budget: float) -> None:
        with dc.target(budget=budget):
            await asyncio.sleep(0)
            await asyncio.to_thread(draw, dc.session(tiny_pipe), tiny_call)

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, (0.25, 0.75, 1.0)))

    asyncio.run(all_of_them())
    assert {share for _, share in done(run)} == {0.25, 0.75, 1.0}

    with ThreadPoolExecutor(1) as pool, dc.target(budget=0.25):
        pool.submit(draw, dc.session(tiny_pipe), tiny_call).result()
        context = contextvars.copy_context()
        pool.submit(context.run, draw, dc.session(tiny_pipe), tiny_call).result()
    assert [share for _, share in done(run)[3:]] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("asked", "steps", "message"),
    [
        ({"speedup": 5.0}, 4, r"received speedup=5.0: the fastest"),
        ({"budget": 0.25}, 3, "computes 1 of 3 site steps"),
        ({"min_psnr": 35.0}, 4, "measured floors for 4 steps"),
        ({"deadline_s": 1.0}, 4, "trained to keep deadlines"),
    ],
)
def test_a_call_that_asks_for_what_is_out_of_reach_fails_alone(
    asked: Any,
    steps: int,
    message: str,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    run: dc.Run,
) -> None:
    before = draw(tiny_pipe, tiny_call)

    with pytest.raises(BudgetError, match=message), dc.target(**asked):
        draw(tiny_pipe, tiny_call, steps=steps)

    assert torch.equal(draw(tiny_pipe, tiny_call), before)
    assert run.cache.used_bytes == 0
    assert "compute everything" not in run.summary()


def test_a_target_that_makes_no_sense_is_refused_where_it_is_written(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match="speedup must be > 0"):
        dc.target(speedup=-1.0)
    with pytest.raises(ConfigError, match="exactly one of"):
        dc.target(speedup=2.0, budget=0.5)
    with pytest.raises(ConfigError, match=r"received 'speedpu'\. Did you mean 'speedup'\?"):
        dc.target(speedpu=2.0)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="exactly one of"):
        dc.target()
    with pytest.raises(StateError, match="an attached pipeline to ask a session"):
        dc.session(tiny_pipe, speedup=2.0)


def test_a_controller_is_asked_for_nothing(tiny_pipe: Any, tiny_call: dict[str, Any]) -> None:
    with (
        dc.cached(tiny_pipe, EveryK(2)),
        dc.target(speedup=2.0),
        pytest.raises(ConfigError, match=r"received speedup=2\.0 for EveryK"),
    ):
        draw(tiny_pipe, tiny_call)


def test_ranks_are_asked_for_no_deadline(
    tiny_pipe: Any, tiny_call: dict[str, Any], policy: Policy
) -> None:
    class Alone(Ranks):
        def __init__(self) -> None: ...

    with (
        dc.cached(tiny_pipe, policy, ranks=Alone()),
        dc.target(deadline_s=1.0),
        pytest.raises(ConfigError, match=r"ranks run together, received deadline_s=1\.0"),
    ):
        draw(tiny_pipe, tiny_call)


def test_a_bandit_leaves_a_request_alone_that_is_asked_for_its_own(
    tiny_pipe: Any, tiny_call: dict[str, Any], policy: Policy
) -> None:
    bandit = dc.Bandit(min_psnr=1.0, audit=1.0)
    with dc.cached(tiny_pipe, policy, adapt=bandit) as run, dc.target(budget=0.25):
        draw(tiny_pipe, tiny_call)

    assert done(run) == [("budget=0.25", 0.25)]
    assert not bandit.summary()


def test_a_record_says_what_was_asked_for(
    tiny_pipe: Any, tiny_call: dict[str, Any], policy: Policy, tmp_path: Path
) -> None:
    file = tmp_path / "requests.jsonl"
    with dc.cached(tiny_pipe, policy, record=dc.Recorder(file)), dc.target(budget=0.25):
        draw(tiny_pipe, tiny_call)

    assert parse_json(file.read_bytes())["target"] == "budget=0.25"


@pytest.mark.parametrize("other", [Target(deadline_s=1.0), Target(min_psnr=35.0, over="requests")])
def test_what_a_row_alone_cannot_keep_is_refused(other: Target) -> None:
    with pytest.raises(ConfigError, match="for row 1; ask for it in a call of its own"):
        TargetsByRow((Target(speedup=2.0), other))
