from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditcache_rl as dc
from ditcache_rl.bench import Board, Case
from ditcache_rl.errors import ArtifactError, BudgetError, ConfigError
from ditcache_rl.policy import load_policy, save_policy
from ditcache_rl.policy.save import PACER
from ditcache_rl.types import Mode, StepInfo
from ditcache_rl.world import DeadlineController, Gauges, Pacer
from tests.kit.environment import levels_of, untrained_policy
from tests.kit.pacers import tiny_pacer

STEPS = 4
CASES = [Case("a small plain red disc at left on a white background", 3)]


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, STEPS, sites=1, call=tiny_call, blocks="transformer")


@pytest.fixture
def pacer(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Pacer:
    return tiny_pacer(levels_of(tiny_pipe, tiny_call, STEPS))


class Ticking(DeadlineController):
    """Under a clock in which a computed step takes one second, times a slowdown."""

    def __init__(self, pacer: Pacer, deadline_s: float, slowdowns: Iterator[float]) -> None:
        self.now = now = [0.0]  # requests work on copies, which share it
        super().__init__(pacer, deadline_s, gauges=Gauges(), clock=lambda: now[0])
        self._slowdowns = slowdowns

    def reset(self, run: Any) -> None:
        super().reset(run._replace(began=0.0))

    def decide(self, info: StepInfo) -> Any:
        decision = super().decide(info)
        if decision.modes[0, 0] == Mode.COMPUTE:
            self.now[0] += next(self._slowdowns)
        return decision


def computed(board: Board, controller: DeadlineController, cases: list[Case] = CASES) -> list[int]:
    log = board.draw(cases, controller).log
    assert log is not None
    assert (log.modes == log.modes[:, :1]).all()
    return np.flatnonzero(log.modes[:, 0, 0] == Mode.COMPUTE).tolist()


def forever(slowdown: float) -> Iterator[float]:
    while True:
        yield slowdown


def test_with_time_for_everything_the_image_is_that_of_full_compute(
    board: Board, pacer: Pacer
) -> None:
    drawn = board.draw(CASES, DeadlineController(pacer, 1e6))

    assert torch.equal(drawn.images, board.draw(CASES).images)


@pytest.mark.parametrize(("decides", "count"), [("prior", 2), ("rule", 1), ("agent", 1)])
def test_every_contender_decides_by_hand(
    decides: str, count: int, tiny_pipe: Any, tiny_call: dict[str, Any]
) -> None:
    """Without time the prior follows its schedule all the same, and the others compute once."""
    pacer = tiny_pacer(levels_of(tiny_pipe, tiny_call, STEPS), agent=True)
    by_hand = DeadlineController(pacer, 1e-6, decide=getattr(pacer, decides))

    with dc.cached(tiny_pipe, by_hand, sites=1, blocks="transformer") as run:
        tiny_pipe("a disc", num_inference_steps=STEPS, **tiny_call)

    (log,) = run.logs
    assert log.compute_share.tolist() == [count / STEPS]


def test_without_time_only_the_first_step_is_computed(board: Board, pacer: Pacer) -> None:
    assert computed(board, DeadlineController(pacer, 1e-9)) == [0]


@pytest.mark.parametrize(("deadline_s", "count"), [(1.5, 1), (2.5, 2), (3.5, 3), (4.5, 4)])
def test_as_many_steps_compute_as_fit_by_the_clock(
    board: Board, pacer: Pacer, deadline_s: float, count: int
) -> None:
    steps = computed(board, Ticking(pacer, deadline_s, forever(1.0)))

    assert steps == list(pacer.placement.path(count))


def test_a_machine_that_slows_down_computes_less_and_stays_in_time(
    board: Board, pacer: Pacer
) -> None:
    slowed = Ticking(pacer, 4.5, iter([1.0, 2.5, 2.5, 2.5]))

    assert len(computed(board, slowed)) == 2
    assert slowed.now[0] <= 4.5


def test_rows_of_a_request_share_one_clock(board: Board, pacer: Pacer) -> None:
    cases = [*CASES, Case("a small plain green pill at left on a white background", 4)]

    assert len(computed(board, DeadlineController(pacer, 1e6), cases)) == STEPS


def test_what_one_request_learns_of_the_speed_the_next_one_starts_with(pacer: Pacer) -> None:
    gauges, latents = Gauges(), (1, 64, 16)
    gauge = gauges.of(latents)
    gauge.note(np.array([4.0]))
    gauges.keep(latents, gauge)

    assert gauges.of(latents).averages[0, 0] > 0
    assert gauges.of((2, 64, 16)).averages[0, 0] == pytest.approx(np.log(2))
    assert gauges.of((1, 144, 16)).averages[0, 0] == 0.0, "larger images tell nothing of these"


MODES = np.array([[[0]], [[3]], [[0]], [[3]]], dtype=np.int8)


def test_the_promised_share_is_in_time_in_the_long_run_under_any_load() -> None:
    # Requests are late as often as there is less kept back than they need, which is drawn.
    rng, gauges, late, promised, count = np.random.default_rng(0), Gauges(), 0, 0.9, 2000
    for needed in 3.0 * rng.standard_exponential(count):
        in_time = bool(needed <= gauges.reserve)
        late += not in_time
        gauges.judge(MODES, in_time=in_time, promised_share=promised)

    # What was added for late ones and taken for others adds up to what is kept back now.
    assert late / count == pytest.approx(1 - promised, abs=1.1 * (1 + gauges.reserve) / count)


def test_what_could_not_be_quicker_or_broke_off_says_nothing() -> None:
    gauges = Gauges()
    once, broken = MODES.copy(), MODES.copy()
    once[2], broken[-1] = 3, -1
    for modes in (once, broken):
        gauges.judge(modes, in_time=False, promised_share=0.9)

    assert gauges.reserve == 0.0


def test_what_is_kept_back_is_not_computed(board: Board, pacer: Pacer) -> None:
    counts = []
    for reserve in (0.0, 2.0):
        controller = Ticking(pacer, 3.5, forever(1.0))
        controller._gauges.reserve = reserve
        counts.append(len(computed(board, controller)))

    assert counts == [3, 1]


def test_finished_requests_of_a_policy_say_what_must_be_kept_back(
    tiny_pipe: Any, tiny_call: dict[str, Any], pacer: Pacer
) -> None:
    policy = replace(untrained_policy(tiny_pipe, tiny_call), pacer=pacer)
    policy = replace(policy, manifest=replace(policy.manifest, blocks="transformer"))

    with dc.cached(tiny_pipe, policy, deadline_s=1e6) as run:
        assert run._followed is not None
        gauges = run._followed._gauges
        gauges.reserve = 1.0
        tiny_pipe("a pill", num_inference_steps=STEPS, output_type="pt", **tiny_call)
        assert gauges.reserve == pytest.approx(1.0 - 0.05)

        log = run.logs[0]
        log.seconds = 2e6
        run._followed.hear(log)
        assert gauges.reserve == pytest.approx(1.0 - 0.05 + 0.95)


def test_a_policy_keeps_deadlines_in_a_pipeline_and_says_so(
    tiny_pipe: Any, tiny_call: dict[str, Any], pacer: Pacer, tmp_path: Path
) -> None:
    policy = replace(untrained_policy(tiny_pipe, tiny_call), pacer=pacer)
    policy = replace(policy, manifest=replace(policy.manifest, blocks="transformer"))
    save_policy(policy, tmp_path / "policy", card="")

    with dc.cached(tiny_pipe, tmp_path / "policy", deadline_s=1e6) as run:
        tiny_pipe("a pill", num_inference_steps=STEPS, output_type="pt", **tiny_call)

    assert (run.logs[0].modes == Mode.COMPUTE).all()
    assert "1 of 1 within 1e+06 s" in run.summary()


def test_a_deadline_without_a_pacer_for_these_steps_is_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], pacer: Pacer
) -> None:
    bare = untrained_policy(tiny_pipe, tiny_call)
    other = replace(bare, pacer=tiny_pacer(levels_of(tiny_pipe, tiny_call, 6)))

    for policy, reason in ((bare, "trained to keep deadlines"), (other, "noise levels")):
        with pytest.raises(BudgetError, match=reason):
            dc.attach(tiny_pipe, policy, deadline_s=1.0)


def test_ranks_with_clocks_of_their_own_are_refused(
    tiny_pipe: Any, tiny_call: dict[str, Any], pacer: Pacer
) -> None:
    class Together:
        def share(self, decision: Any) -> Any:
            return decision

        least = share

    policy = replace(untrained_policy(tiny_pipe, tiny_call), pacer=pacer)

    with pytest.raises(ConfigError, match="clocks of their own"):
        dc.attach(tiny_pipe, policy, deadline_s=1.0, ranks=Together())  # type: ignore[arg-type]


@pytest.mark.parametrize("agent", [False, True])
def test_a_saved_pacer_decides_as_before(
    tiny_pipe: Any, tiny_call: dict[str, Any], tmp_path: Path, agent: bool
) -> None:
    own = tiny_pacer(levels_of(tiny_pipe, tiny_call, STEPS), agent=agent)
    save_policy(
        replace(untrained_policy(tiny_pipe, tiny_call), pacer=own), tmp_path / "policy", card=""
    )
    loaded = load_policy(tmp_path / "policy").pacer

    assert loaded is not None
    assert loaded.pacing == own.pacing
    for name, array in own.to_arrays().items():
        np.testing.assert_array_equal(array, loaded.to_arrays()[name])


def test_damaged_pacers_are_refused_with_the_name_of_the_file(
    tiny_pipe: Any, tiny_call: dict[str, Any], pacer: Pacer, tmp_path: Path
) -> None:
    policy = untrained_policy(tiny_pipe, tiny_call)
    wrong = {
        "chosen": replace(pacer, chosen=pacer.chosen + 100),
        "costs": replace(pacer, costs=-pacer.costs - 1.0),
        "arrays": replace(pacer, deadlines=np.zeros(7)),
        "times": replace(pacer, pacing=replace(pacer.pacing, compute_s=0.0)),
    }
    for name, damaged in wrong.items():
        save_policy(replace(policy, pacer=damaged), tmp_path / name, card="")
        with pytest.raises(ArtifactError, match=PACER):
            load_policy(tmp_path / name)
