"""Who is drawn, who waits, and how much each computes."""

import gc
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from benchmarks.served.drift import changed
from ditcache_rl.inference import Target, open_policy
from ditcache_rl.instrument.fingerprint import ModelWatch
from ditcache_rl.policy import Policy
from ditcache_rl.serve.server import (
    Audits,
    CallCosts,
    Engine,
    ImageTicket,
    Painter,
    Refused,
    ServedImage,
    ServerSettings,
)
from ditcache_rl.serve.server.meeting import WorkDone
from ditcache_rl.serve.server.order import joining
from ditcache_rl.serve.server.shares import Shares
from ditcache_rl.serve.server.ticket import DrawnTicket
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import build_tiny_pipe

#: 28 steps of the embedded pipeline on a machine where rows come one after the other.
COSTS: dict[str, Any] = {
    "row_s": 0.03,
    "compute_s": 0.0,
    "compute_row_s": 0.02,
    "own_px": 64 * 64,
}


@pytest.fixture(scope="module")
def shapes() -> Policy:
    return open_policy("shapes-ppo")


def ticket(within_s: float, **given: Any) -> ImageTicket:
    known: dict[str, Any] = {
        "prompt": "a star",
        "seed": 0,
        "steps": 28,
        "size": None,
        "least": 2,
        "most": 14,
        "floor": None,
        "asks_time": False,
        **given,
    }
    return ImageTicket(deadline=time.perf_counter() + within_s, **known)


def work_of(computes: int, rows: int = 1) -> WorkDone:
    """What is done while rows are drawn side by side that compute the same."""
    return WorkDone(computes, computes * rows, rows)


def test_costs_of_images_are_found_and_followed() -> None:
    def seconds(rows: int, computes: int) -> float:
        return 0.01 * rows + computes * (0.02 + 0.005 * rows)

    costs = CallCosts.measured(seconds, rows=8, least=2, most=28, own_px=64 * 64)

    for rows, computes in ((1, 28), (5, 9), (8, 2)):
        assert costs.batch_s(computes, rows) == pytest.approx(seconds(rows, computes))
    costs.note(work_of(9, 4), seconds(4, 9))
    assert costs.slowness == pytest.approx(1.0)
    for _ in range(60):
        costs.note(work_of(9, 4), 3 * seconds(4, 9))
    assert costs.batch_s(20, 1) == pytest.approx(3 * seconds(1, 20), rel=0.01)


def test_as_many_are_drawn_at_a_time_as_make_images_cheaper() -> None:
    one_by_one = CallCosts(**COSTS)
    some = CallCosts(row_s=0.01, compute_s=0.01, compute_row_s=0.01, own_px=64 * 64)
    together = CallCosts(row_s=0.001, compute_s=0.02, compute_row_s=0.001, own_px=64 * 64)

    assert one_by_one.rows_that_pay(8, 2) == 1
    assert some.rows_that_pay(8, 2) == 4
    assert together.rows_that_pay(8, 2) == 7


def test_where_there_is_time_everybody_gets_what_was_asked_for(shapes: Policy) -> None:
    shares = Shares(shapes, CallCosts(**COSTS), rows=4)

    found = shares.computes([ticket(60, most=14), ticket(60, most=5)], [], [], time.perf_counter())

    assert found == [14, 5]


def test_under_load_everybody_computes_less_and_floors_are_kept(shapes: Policy) -> None:
    shares, floor = Shares(shapes, CallCosts(**COSTS), rows=4), Target(min_psnr=40.0)
    batch = [ticket(3.0, most=28, asks_time=True), ticket(3.0, least=9, most=9, floor=floor)]
    counts = []
    for waiting in (0, 8, 16, 24):
        others = [ticket(3.0) for _ in range(waiting)]
        found = shares.computes(batch, [], others, time.perf_counter())
        counts.append(found[0])
        assert found[1] == 9
        assert shares.target_of(batch[1], found[1]) is floor

    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] >= 2
    assert shares.target_of(batch[0], 7) == Target(budget=0.25)


def test_computes_are_bought_only_where_a_measured_schedule_gains_by_them(shapes: Policy) -> None:
    shares, table = Shares(shapes, CallCosts(**COSTS), rows=2), shapes.tables[28]
    known = {n: one.unseen_psnr_db for n, one in table.items() if np.isfinite(one.psnr_db)}

    for places in range(0, 60, 3):
        waiting = [ticket(4.0, most=28, asks_time=True) for _ in range(places)]
        (given,) = shares.computes(
            [ticket(4.0, most=28, asks_time=True)], [], waiting, time.perf_counter()
        )
        assert given in known
        assert known[given] == max(psnr for n, psnr in known.items() if n <= given)


def test_nobody_begins_with_more_than_its_own_deadline_leaves_time_for(shapes: Policy) -> None:
    costs = CallCosts(row_s=0.01, compute_s=0.03, compute_row_s=0.01, own_px=64 * 64)
    shares = Shares(shapes, costs, rows=4)
    assert shares.rows > 1
    full_s = costs.together_s(1, shares.rows)

    for seconds in (0.3, 0.5, 0.7):
        begun = [ticket(one, most=28, asks_time=True) for one in (seconds, 60.0)]
        tight, patient = shares.computes(begun, [], [], time.perf_counter())
        assert tight * full_s < seconds
        assert tight < patient, "who has time gives up nothing for who has none"


def test_who_begins_leaves_time_to_those_who_wait(shapes: Policy) -> None:
    costs = CallCosts(row_s=0.0, compute_s=0.0, compute_row_s=0.1, own_px=64 * 64)
    shares, now = Shares(shapes, costs, rows=1), time.perf_counter()
    first = ticket(0.0, most=28, asks_time=True)
    second = ticket(0.0, most=28, asks_time=True)
    first.deadline, second.deadline = now + 1.26, now + 1.76

    (found,) = shares.computes([first], [], [second], now)

    assert found == 7, "ten and four would be in time too, and worth less"


def test_who_has_no_deadline_gets_what_it_asks_for(shapes: Policy) -> None:
    begun = ticket(np.inf, most=28)

    found = Shares(shapes, CallCosts(**COSTS), rows=2).computes([begun], [], [], 0.0)

    assert found == [28]


@pytest.fixture(scope="module")
def engine(tiny_call: dict[str, Any]) -> Engine:
    """An engine whose calls are known, and which does not draw by itself."""
    pipe = build_tiny_pipe()
    engine = Engine(
        Painter(pipe, untrained_policy(pipe, tiny_call)), ServerSettings(rows=2, places=5)
    )
    engine._costs = CallCosts(row_s=0.0, compute_s=0.0, compute_row_s=1.0, own_px=64 * 64)
    return engine


def four(within_s: float, **given: Any) -> ImageTicket:
    return ticket(within_s, **{"steps": 4, "least": 1, "most": 4, **given})


def test_a_full_queue_and_a_deadline_out_of_reach_are_refused_at_once(engine: Engine) -> None:
    engine.submit([four(60), four(60), four(60)])

    # An image takes a second, and somebody is drawn beside it.
    with pytest.raises(Refused, match="not even the cheapest") as late:
        engine.submit([four(59, steps=6), four(1.5)])
    with pytest.raises(Refused, match="3 images wait already, of at most 5") as full:
        engine.submit([four(60)] * 3)

    assert (late.value.status, full.value.status) == (429, 429)
    assert full.value.retry_after_s == pytest.approx(3.0)  # two beside each other, and one
    assert engine.waiting == 3, "nobody was drawn meanwhile"
    engine.forget(list(engine._waiting))


def test_who_comes_while_computes_are_decided_is_refused_for_none_that_may_not_be_made(
    engine: Engine,
) -> None:
    assert engine._costs is not None
    patient = four(60)
    engine.submit([patient])
    begun = engine._take(engine._costs)
    try:
        assert [(one.ticket, one.computes) for one in begun] == [(patient, 1)]
    finally:
        for one in begun:
            engine._done(one)


def test_who_would_make_another_one_late_is_refused(engine: Engine) -> None:
    patient = [four(2.5), four(2.5)]
    engine.submit(patient)

    with pytest.raises(Refused, match="in time for everybody"):
        engine.submit([four(2.4, steps=6)])
    engine.submit([four(60, steps=6)])

    engine.forget(list(engine._waiting))
    assert engine.waiting == 0


def test_who_goes_away_frees_the_place(engine: Engine) -> None:
    tickets = [four(60) for _ in range(5)]
    engine.submit(tickets)
    engine.forget(tickets[:2])

    engine.submit([four(60), four(60)])

    assert tickets[0].answer.cancelled()
    assert engine.waiting == 5
    engine.forget(list(engine._waiting))


def test_a_call_that_nobody_waits_for_ends_early(engine: Engine) -> None:
    from ditcache_rl.serve.server.painter import AbandonedError

    gone = four(60)
    gone.gone = True
    calls, run = list[int](), engine.painter.run
    transformer = engine.painter._pipe.transformer
    counted = transformer.register_forward_pre_hook(lambda *given: calls.append(1))
    with pytest.raises(AbandonedError):
        engine.painter.draw(DrawnTicket(gone, 4), Target(budget=1.0))
    counted.remove()
    assert run.cache.used_bytes == 0
    assert len(calls) == 1
    assert run.failed["AbandonedError"] == 1


def test_who_goes_away_while_being_answered_harms_nobody() -> None:
    class LeftMeanwhile(Future[Any]):
        def done(self) -> bool:
            known = super().done()
            self.cancel()
            return known

    for leave in (Future.done, Future.cancel):
        given = four(60)
        given.answer = LeftMeanwhile()
        leave(given.answer)
        given.refuse(Refused("no", status=503, code="no"))
        given.give(ServedImage(b"", "", "", 1.0, 0.0, 0.0))


def test_everybody_is_answered_whatever_fails(engine: Engine, shapes: Policy) -> None:
    class Broken(Shares):
        def computes(self, *given: Any) -> list[int]:
            raise RuntimeError("of nobody's making")

        def target_of(self, *given: Any) -> Target:
            raise RuntimeError("nor of anybody's")

    begun, costs = [DrawnTicket(four(60), 4), DrawnTicket(four(60), 4)], CallCosts(**COSTS)
    broken = Broken(shapes, costs, rows=2)
    engine._grant(begun, broken)
    assert [one.computes for one in begun] == [1, 1]
    for one in begun:
        engine._draw(one, broken, costs)

    assert {type(one.ticket.answer.exception(timeout=0)) for one in begun} == {Refused}


def test_who_comes_after_the_end_is_told(engine: Engine) -> None:
    class Unmeasurable:
        policy = engine.painter.policy

    ended = Engine(Unmeasurable(), ServerSettings())  # type: ignore[arg-type]
    ended.start()
    ended._thread.join()

    with pytest.raises(Refused, match="the engine has ended") as refused:
        ended.submit([four(60)])
    assert refused.value.code == "dead"


def test_nobody_looks_at_weights_between_the_steps_of_a_served_call(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, real = list[bool](), ModelWatch.as_before

    def as_before(watch: ModelWatch, *, closely: bool = False) -> bool:
        looks.append(closely)
        return real(watch, closely=closely)

    monkeypatch.setattr(ModelWatch, "as_before", as_before)
    engine.painter.draw(DrawnTicket(four(60), 2), Target(budget=0.5))

    assert looks
    assert not any(looks), "a look at weights waits for the device"


def test_what_is_out_of_reach_computes_everything(engine: Engine) -> None:
    painted = engine.painter.draw(DrawnTicket(four(60), 4), Target(speedup=99.0))

    assert painted.log is not None
    assert painted.log.compute_share.tolist() == [1.0]
    assert str(painted.log.target) == "speedup=99.0"


def test_who_is_followed_no_more_needs_every_compute(engine: Engine) -> None:
    painter = engine.painter
    assert painter.bounds(None, 4)[0] == 1
    painter.run.distrust("for a test")
    try:
        assert painter.bounds(None, 4) == (4, 4)
    finally:
        painter.run.distrust("")


def test_calls_of_other_sizes_do_not_count_for_what_those_of_the_own_size_take(
    engine: Engine,
) -> None:
    costs = CallCosts(row_s=0.0, compute_s=0.0, compute_row_s=9.0, own_px=64 * 64)
    shares = Shares(engine.painter.policy, costs, rows=2)

    engine._draw(DrawnTicket(four(60, size=(32, 32)), 4), shares, costs)
    assert costs.slowness == 1.0
    engine._draw(DrawnTicket(four(60), 4), shares, costs)
    assert costs.slowness < 1.0


def test_an_image_of_many_pixels_counts_for_as_many_rows() -> None:
    costs = CallCosts(row_s=0.1, compute_s=0.5, compute_row_s=0.25, own_px=64 * 64)

    for n, size, rows in ((1, (128, 64), 2), (3, (128, 128), 12), (1, (2048, 2048), 1024)):
        found = costs.rows_of([ticket(1, size=size)] * n)
        assert found == rows
        assert costs.batch_s(7, found) == pytest.approx(0.1 * rows + 7 * (0.5 + 0.25 * rows))
    assert costs.rows_of([ticket(1)] * 3) == 3


def test_how_attention_grows_is_learned_from_what_was_served() -> None:
    """Times of tokens and of tokens squared, as linear layers and attention take."""
    costs = CallCosts(row_s=0.0, compute_s=0.0, compute_row_s=1.0, own_px=64 * 64)

    def seconds(side: int) -> float:
        tokens = (side / 64) ** 2
        return 4 * 0.5 * (tokens + tokens**2)

    def foretold(side: int) -> float:
        return costs.batch_s(4, costs.load((side, side)))

    for side in (128, 256):
        first = foretold(side)
        assert (side / 64) ** 2 * 4 <= first + 1e-9 < seconds(side), "at least by the pixels"
        for _ in range(2):
            costs.note(work_of(4), seconds(side), (side, side))
        assert foretold(side) == pytest.approx(seconds(side))
    assert costs.slowness == 1.0
    # Beyond and between, by what is known: never by more than attention, or less than the pixels.
    beyond, between = (foretold(side) for side in (512, 192))
    assert 0.7 * seconds(512) < beyond <= 16 * 4 * seconds(256)
    assert between == pytest.approx(seconds(192), rel=0.15)
    assert foretold(32) == pytest.approx(1.0)


def test_sizes_that_are_remembered_have_an_end() -> None:
    costs = CallCosts(**COSTS)
    for side in range(80, 80 + 16 * 100, 16):
        costs.note(work_of(4), 1.0, (side, side))

    assert len(costs._loads) <= 32
    assert costs.load(None) == 1.0


def test_a_large_image_is_not_admitted_as_if_it_were_small(engine: Engine) -> None:
    # An image of the policy's size takes a second at best, so one of 256 times the pixels 256 s.
    with pytest.raises(Refused, match="not even the cheapest"):
        engine.submit([four(200, size=(1024, 1024))])
    engine.submit([four(300, size=(1024, 1024))])
    with pytest.raises(Refused, match="in time for everybody"):
        engine.submit([four(290)] * 2 + [four(290, size=(512, 512))])

    engine.forget(list(engine._waiting))


def test_no_more_pixels_are_drawn_at_a_time_than_of_rows_at_the_own_size() -> None:
    costs, rows = CallCosts(**COSTS), 8
    for size, count in (((64, 64), 8), ((32, 32), 8), ((128, 64), 4), ((2048, 2048), 1)):
        waiting = [ticket(9, size=size) for _ in range(20)]
        assert joining([], waiting, costs, rows=rows) == waiting[:count]


def test_an_image_of_twice_the_work_waits_as_two(shapes: Policy) -> None:
    costs = CallCosts(**COSTS)
    shares, batch = Shares(shapes, costs, rows=4), [ticket(3.0, most=28, asks_time=True)]
    now = time.perf_counter()

    def found(*waiting: ImageTicket) -> int:
        return shares.computes(batch, [], waiting, now)[0]

    two, halves = (128, 64), (64, 32)
    many = found(*(ticket(3.0) for _ in range(24)))
    assert found(*(ticket(3.0, size=two) for _ in range(12))) == many
    assert found(*(ticket(3.0, size=halves) for _ in range(48))) == many
    assert many < found(*(ticket(3.0) for _ in range(12)))


def test_who_waits_when_the_policy_is_trusted_no_more_is_drawn_without_it(
    engine: Engine,
) -> None:
    painter, costs = engine.painter, CallCosts(**COSTS)
    shares = Shares(painter.policy, costs, rows=2)
    waiting = [four(60, most=1), four(60, most=1)]
    engine.submit(waiting)
    finished = len(painter.run.logs)
    painter.run.distrust("for a test")
    try:
        with engine._news:
            begun = engine._take(costs)
        late = four(60, most=1)  # bounds of before, and only now in the queue
        engine.submit([late])
        batch = [one.ticket for one in begun]
        for one in begun:
            engine._draw(one, shares, costs)
    finally:
        painter.run.distrust("")

    assert len(batch) == 2
    assert [(one.least, one.most) for one in (*batch, late)] == [(4, 4)] * 3
    for asked in batch:
        drawn = asked.answer.result(timeout=0)
        assert (drawn.target, drawn.compute_share) == ("", 1.0)
    assert len(painter.run.logs) == finished, "the plain pipeline drew"
    engine.forget([late])


@contextmanager
def stopped(
    tiny_call: dict[str, Any], *, audit: float = 0.0, grace_s: float = 30.0
) -> Iterator[tuple[Engine, list[int], threading.Event, threading.Event]]:
    """A running engine; calls of its transformer, an event that each sets and one it waits for."""
    pipe, calls = build_tiny_pipe(), list[int]()
    came, go = threading.Event(), threading.Event()
    settings = ServerSettings(rows=1, grace_s=grace_s)
    painter = Painter(pipe, untrained_policy(pipe, tiny_call))
    engine = Engine(painter, settings, audits=Audits(audit) if audit else None)
    engine.start()
    assert engine.ready.wait(60)

    def called(*given: Any) -> None:
        calls.append(1)
        came.set()
        go.wait(60)

    hook = pipe.transformer.register_forward_pre_hook(called)
    try:
        yield engine, calls, came, go
    finally:
        go.set()
        engine._thread.join(60)
        hook.remove()
        painter.close()


def test_a_server_that_is_stopped_waits_for_no_audit(tiny_call: dict[str, Any]) -> None:
    with stopped(tiny_call, audit=1.0) as (engine, calls, came, go):
        go.set()
        asked = four(60)
        engine.submit([asked])
        asked.answer.result(60)  # and now the audit
        go.clear()
        came.clear()
        assert came.wait(60)
        del calls[:]
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        while not engine.audits._stopped:  # type: ignore[union-attr]
            time.sleep(0.001)
        go.set()
        stopping.join(60)

        assert not engine.alive
        assert not calls, "the audit went on"
        assert engine.audits.count == 0  # type: ignore[union-attr]


def test_an_image_that_is_not_audited_has_no_place_while_it_is_written(
    tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[int]()
    with stopped(tiny_call, audit=1e-9) as (engine, _, _, go):
        go.set()
        give = ImageTicket.give

        def written(ticket: ImageTicket, image: ServedImage) -> None:
            held.append(len(engine._drawn))
            give(ticket, image)

        monkeypatch.setattr(ImageTicket, "give", written)
        asked = four(60)
        engine.submit([asked])
        asked.answer.result(60)
        engine.stop()

    assert held == [0]


def test_what_is_not_done_after_the_grace_is_refused_and_ends(
    tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditcache_rl.serve.server.engine._LAST_STEP_S", 0.1)
    with stopped(tiny_call, grace_s=0.1) as (engine, calls, came, go):
        tickets = [four(600), four(600)]
        engine.submit(tickets)
        assert came.wait(60)
        engine.stop()

        for one in tickets:
            refused = one.answer.exception(timeout=0)
            assert isinstance(refused, Refused)
            assert refused.code == "stopping"
        assert engine.alive, "a step that does not end holds up nobody"
        go.set()
        engine._thread.join(60)
        assert len(calls) == 1


def test_audits_judge_when_too_many_images_are_below_their_floor() -> None:
    audits = Audits(1.0)
    for _ in range(40):
        audits.note([36.0], [35.0])
    audits.note([30.0] * 3, [35.0] * 3)
    audits.note([20.0], [math.nan])
    assert not audits.verdict

    audits.note([30.0], [35.0])

    assert audits.verdict.startswith("4 of the last 20 audited images were below the floor")


def test_an_audit_is_no_image_of_8_bits_and_costs_the_policy_no_rounding(engine: Engine) -> None:
    """An image of full compute is its reference; who compares it rounded finds 59 dB."""
    audits, costs = Audits(1.0), CallCosts(**COSTS)
    auditing = Engine(engine.painter, engine.settings, audits=audits)
    auditing._costs = costs
    served = engine.painter.draw(DrawnTicket(four(60), 4), Target(budget=1.0)).image
    again = engine.painter.reference(DrawnTicket(four(60), 4, rounded=False)).image

    shares = Shares(engine.painter.policy, costs, rows=1)
    auditing._draw(DrawnTicket(four(60), 4), shares, costs)

    assert again.shape == (3, served.height, served.width)
    pixels = (again.permute(1, 2, 0).numpy() * 255).round()
    assert np.array_equal(pixels, np.asarray(served))
    assert [*audits.psnr_db] == [60.0]


def test_weights_that_change_while_serving_are_noticed_by_audits(
    tiny_call: dict[str, Any],
) -> None:
    pipe = build_tiny_pipe()
    policy = untrained_policy(pipe, tiny_call)
    usual = Audits(1.0, min_psnr=0.0)

    def asked(engine: Engine, audits: Audits, seed: int) -> None:
        one, known = four(60, seed=seed, least=2, most=2), audits.count
        engine.submit([one])
        one.answer.result(60)
        while audits.count == known and not audits.verdict:
            time.sleep(0.001)

    @contextmanager
    def serving(audits: Audits) -> Iterator[Engine]:
        engine = Engine(Painter(pipe, policy), ServerSettings(rows=1), audits=audits)
        engine.start()
        try:
            engine.ready.wait()
            yield engine
        finally:
            engine.stop()

    with serving(usual) as engine:
        for seed in range(6):
            asked(engine, usual, seed)
    audits = Audits(1.0, min_psnr=min(usual.psnr_db) - 1.0)
    with serving(audits) as engine:
        for seed in range(6):
            asked(engine, audits, seed)
        assert not audits.verdict
        with changed(pipe.transformer, 3.0):
            caught = 0
            while not engine.painter.run.distrusted and caught < 20:
                asked(engine, audits, caught)
                caught += 1

    assert audits.verdict.startswith("4 of the last")
    assert caught < 20


def test_requests_that_were_served_keep_next_to_nothing(engine: Engine) -> None:
    painter, costs = engine.painter, CallCosts(**COSTS)
    shares = Shares(painter.policy, costs, rows=1)

    def held_after(count: int) -> int:
        for seed in range(count):
            one = four(60, seed=seed, least=1, most=1)
            engine._draw(DrawnTicket(one, 1), shares, costs)
            assert one.answer.result(0).png
        gc.collect()
        tensors = [one for one in gc.get_objects() if type(one) is Tensor]
        return sum({one.data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())

    before = held_after(10)
    grown = held_after(30) - before

    # An image of 64 x 64 pixels has 12 KB, its latents and residuals far more.
    assert grown < 30 * 1000
    assert painter.run.cache.used_bytes == 0
