"""Images that are drawn side by side, and computed together where that may be."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.inference import Target
from ditcache_rl.instrument.taps import Tap, install, release
from ditcache_rl.policy import Policy
from ditcache_rl.serve.server import (
    CallCosts,
    Engine,
    ImageTicket,
    Painter,
    Refused,
    ServerSettings,
)
from ditcache_rl.serve.server.joint import ModuleCall, VectorTap, computed_together, linear_layers
from ditcache_rl.serve.server.meeting import Meeting
from ditcache_rl.serve.server.order import foretell, joining, late_at_best
from ditcache_rl.serve.server.painter import Painted
from ditcache_rl.serve.server.shares import Shares
from ditcache_rl.serve.server.ticket import DrawnTicket
from tests.kit.environment import PROMPTS, untrained_policy
from tests.kit.pipelines import build_tiny_pipe

#: Blocks of policies for the tiny pipeline: the whole denoiser, and its blocks one by one.
WHOLE, APART = "transformer", ""
EVERY_PROMPT = [prompt for part in PROMPTS.values() for prompt in part]


def ticket(seed: int = 0, **given: Any) -> ImageTicket:
    known: dict[str, Any] = {
        "prompt": EVERY_PROMPT[seed % len(EVERY_PROMPT)],
        "seed": seed,
        "steps": 4,
        "size": None,
        "least": 1,
        "most": 4,
        "floor": None,
        "asks_time": False,
        "deadline": time.perf_counter() + 60,
        **given,
    }
    return ImageTicket(**known)


def policy_of(pipe: Any, call: dict[str, Any], blocks: str) -> Policy:
    policy = untrained_policy(pipe, call)
    return replace(policy, manifest=replace(policy.manifest, blocks=blocks))


@contextmanager
def painting(
    call: dict[str, Any], blocks: str = WHOLE, dtype: torch.dtype = torch.float64
) -> Iterator[Painter]:
    """A painter that knows what its calls run."""
    pipe = build_tiny_pipe().to(dtype)
    painter = Painter(pipe, policy_of(pipe, call, blocks))
    try:
        painter.draw(DrawnTicket(ticket(9), 1), Target(budget=0.25))
        yield painter
    finally:
        painter.close()


def pixels(painted: Painted) -> NDArray[np.int16]:
    return np.asarray(painted.image, dtype=np.int16)


def alone(painter: Painter, seed: int, budget: float, **given: Any) -> NDArray[np.int16]:
    return pixels(painter.draw(DrawnTicket(ticket(seed, **given), 4), Target(budget=budget)))


def halfway(painter: Painter, draws: Sequence[Any]) -> list[Any]:
    """Call functions in threads, each begun at a later forward of the first one; errors too."""
    first, *others = draws
    count, left = 0, list(others)
    with ThreadPoolExecutor(len(draws)) as pool:
        found = []

        def begin_another(*given: Any) -> None:
            nonlocal count
            count += 1
            if count > 1 and left:
                ready = len(painter.meeting._ready)
                found.append(pool.submit(left.pop(0)))
                while len(painter.meeting._ready) == ready:
                    time.sleep(0.0005)

        hook = painter._pipe.transformer.register_forward_pre_hook(begin_another)
        found.append(pool.submit(first))
        try:
            while len(found) < len(draws):
                assert not found[0].done(), "it ended before all had begun"
                time.sleep(0.001)
        finally:
            hook.remove()
        return [one.exception() or one.result() for one in found]


@pytest.mark.parametrize("blocks", [WHOLE, APART])
def test_an_image_that_joins_halfway_is_the_one_drawn_alone(
    tiny_call: dict[str, Any], blocks: str
) -> None:
    wanted = {0: (1.0, 6), 1: (0.5, 4), 2: (1.0, 4), 3: (0.25, 4)}
    with painting(tiny_call, blocks) as painter:
        expected = {
            seed: alone(painter, seed, budget, steps=steps)
            for seed, (budget, steps) in wanted.items()
        }
        before = painter.meeting.work
        found = halfway(
            painter,
            [
                lambda seed=seed, budget=budget, steps=steps: alone(
                    painter, seed, budget, steps=steps
                )
                for seed, (budget, steps) in wanted.items()
            ],
        )
        work = painter.meeting.work.since(before)
        assert painter.run.cache.stats.emptied == 0, "nobody takes a meeting for another model"

    assert work.rows > 1.5 * work.forwards, "they are computed together"
    for image, known in zip(found, expected.values(), strict=True):
        assert np.array_equal(image, known)
    assert "_compiled_call_impl" not in vars(painter._pipe.transformer)


def test_who_does_not_compute_holds_up_nobody(tiny_call: dict[str, Any]) -> None:
    with painting(tiny_call) as painter:
        before = painter.meeting.work
        draws = [lambda b=b: alone(painter, 1, b) for b in (1.0, 0.25)]
        with ThreadPoolExecutor(2) as pool:
            assert len([*pool.map(lambda draw: draw(), draws)]) == 2
        work = painter.meeting.work.since(before)

    assert (work.rows, work.images) == (5, 2)
    assert work.forwards in (4, 5), "one step together, if both were there"


def test_an_image_that_fails_fails_alone(tiny_call: dict[str, Any]) -> None:
    def spoil(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if (kwargs["encoder_hidden_states"] == spoiled).flatten(1).all(1).any():
            raise RuntimeError("of one image")

    with painting(tiny_call) as painter:
        painter.meeting._compared.update(dict.fromkeys(painter.meeting._taps, 9))
        embedded: list[Tensor] = []
        notes = painter._pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: embedded.append(kwargs["encoder_hidden_states"]),
            with_kwargs=True,
        )
        alone(painter, 5, 0.25)
        notes.remove()
        (spoiled,) = embedded
        expected = [alone(painter, seed, 1.0) for seed in (0, 1)]
        hook = painter._pipe.transformer.register_forward_pre_hook(spoil, with_kwargs=True)
        first, bad, second = halfway(
            painter, [lambda seed=seed: alone(painter, seed, 1.0, steps=4) for seed in (0, 5, 1)]
        )
        hook.remove()
        again = alone(painter, 5, 1.0)

    assert isinstance(bad, RuntimeError)
    assert np.array_equal(first, expected[0])
    assert np.array_equal(second, expected[1])
    assert again.shape == first.shape


def test_a_module_that_mixes_rows_is_computed_for_one_image_at_a_time(
    tiny_call: dict[str, Any],
) -> None:
    def mix(module: nn.Module, args: Any, output: Any) -> Any:
        return (output[0] * len(output[0]), *output[1:])

    with painting(tiny_call) as painter:
        hook = painter._pipe.transformer.register_forward_hook(mix)
        expected = [alone(painter, seed, 1.0) for seed in range(3)]
        found = halfway(painter, [lambda seed=seed: alone(painter, seed, 1.0) for seed in range(3)])
        before = painter.meeting.work
        halfway(painter, [lambda: alone(painter, 0, 1.0)] * 2)
        work = painter.meeting.work.since(before)
        hook.remove()

    assert np.array_equal(found, expected)
    assert work.forwards == work.rows == 8


class Rows(nn.Module):
    """Takes rows in a list, and a timestep of all or of each."""

    def forward(self, x: list[Tensor], t: Tensor, *, shift: float = 0.0) -> tuple[list[Tensor]]:
        t = t.expand(len(x))
        return ([row * t[place] + shift for place, row in enumerate(x)],)


def test_rows_in_lists_go_together_and_others_do_not() -> None:
    meeting, module = Meeting(), Rows()
    calls = list[int]()
    module.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    meeting.hold(SimpleNamespace(transformer=module, scheduler="any"))
    given: list[tuple[Tensor, float]] = [
        (torch.ones(2, 3), 0.0),
        (torch.ones(2, 3) * 2, 0.0),
        (torch.ones(2, 3) * 3, 1.0),
        (torch.ones(4, 3) * 4, 0.0),
    ]

    def draw(place: int) -> list[Tensor]:
        row, shift = given[place]
        with meeting.turn(DrawnTicket(ticket(), 8)):
            t = torch.tensor(2.0 + place)
            return [module([row, row], t, shift=shift)[0][1] for _ in range(8)]

    try:
        with ThreadPoolExecutor(len(given)) as pool:
            with meeting.turn(DrawnTicket(ticket(), 0)):
                drawn = [pool.submit(draw, place) for place in range(len(given))]
                while len(meeting._ready) < len(given):
                    time.sleep(0.001)
            found = [one.result() for one in drawn]
    finally:
        meeting.end()

    for place, (row, shift) in enumerate(given):
        for one in found[place]:
            assert torch.equal(one, row * (2.0 + place) + shift)
    assert set(calls) == {2, 4}
    assert sum(calls) - 3 * 4 == 2 * 8 * len(given) == 2 * meeting.work.rows


class Through(Tap):
    """Adds nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)


class Flattened(nn.Module):
    """Has a linear layer see all tokens of a batch as one list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return found


@pytest.mark.parametrize(
    ("module", "shape", "heights"),
    [
        (nn.Sequential(nn.Linear(8, 4)), (1, 8), [1, 1, 1]),
        (nn.Sequential(nn.Linear(8, 4)), (2, 8), [2, 2, 2]),  # two guidance branches
        (nn.Sequential(nn.Linear(8, 4)), (1, 5, 8), [3]),
        (Flattened(), (1, 5, 8), [15]),
    ],
)
def test_one_vector_of_each_row_is_computed_as_it_would_be_alone(
    module: nn.Module, shape: tuple[int, ...], heights: list[int]
) -> None:
    layers = list(linear_layers(module))
    taps = [install(module, Through), *(install(layer, VectorTap) for layer in layers)]
    seen: list[int] = []
    layers[0].register_forward_pre_hook(lambda layer, given: seen.append(len(given[0])))
    calls = [ModuleCall(taps[0], (torch.randn(*shape),), {}) for _ in range(3)]

    with torch.no_grad():
        together = computed_together(calls)
        found, alone = list(seen), [module(*one._given[0]) for one in calls]
    for tap in taps:
        release(tap)

    assert found == heights
    assert len(layers) == 1
    if len(heights) > 1:  # the very same products
        assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    assert [part.shape for part in together] == [one.shape for one in alone]


def test_ends_are_foretold_as_places_become_free() -> None:
    costs = CallCosts(row_s=0.5, compute_s=0.0, compute_row_s=1.0, own_px=64 * 64)
    drawn = DrawnTicket(ticket(), 4, forwards=1)
    one, other = ticket(deadline=1e9), ticket(deadline=2e9)
    large = ticket(deadline=1.5e9, size=(128, 64), least=2)

    def ends(*waiting: ImageTicket) -> dict[int, float]:
        waiting = tuple(sorted(waiting, key=lambda one: one.deadline))
        return foretell([drawn], waiting, 10.0, costs, rows=2).ends

    # Two share each second computation; beginning takes half a second of everybody's time.
    assert ends(other, one) == {one.number: 12.5, other.number: 15.0, drawn.ticket.number: 16.0}
    # Who has another size waits for the end, and nobody overtakes.
    found = ends(other, large, one)
    assert found[drawn.ticket.number] == 14.5
    assert found[large.number] == 14.5 + 2 * 0.5 + 2 * 2.0
    assert found[other.number] == found[large.number] + 1.5
    late = late_at_best([drawn], [replace(one, deadline=12.4)], 10.0, costs, rows=2)
    assert late == {one.number}


def test_nobody_overtakes_who_waits_for_another_size() -> None:
    costs = CallCosts(row_s=0.0, compute_s=0.0, compute_row_s=1.0, own_px=64 * 64)
    own, other = [ticket() for _ in range(6)], ticket(size=(32, 32))

    assert joining([], [*own[:2], other, *own[2:]], costs, rows=4) == own[:4]
    assert joining(own[:1], [*own[1:3], other, *own[3:]], costs, rows=4) == own[1:3]
    assert joining(own[:1], [other, *own[1:]], costs, rows=4) == []
    assert joining(own[:4], own[4:], costs, rows=4) == []


def test_who_begins_leaves_those_in_time_who_are_drawn(tiny_call: dict[str, Any]) -> None:
    costs = CallCosts(row_s=0.0, compute_s=0.5, compute_row_s=0.5, own_px=64 * 64)
    shares = Shares(untrained_policy(build_tiny_pipe(), tiny_call), costs, rows=2)
    now = time.perf_counter()

    def found(deadline_s: float) -> int:
        drawn = DrawnTicket(ticket(deadline=now + deadline_s), 4)
        begun = ticket(most=4, asks_time=True, deadline=now + 600)
        return shares.computes([begun], [drawn], [], now)[0]

    patient, tight, late = found(600.0), found(5.7), found(3.0)

    assert (patient, tight) == (4, 3)
    assert late == patient, "who is late whatever others do makes nobody compute less"


@contextmanager
def serving(call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, rows: int) -> Iterator[Engine]:
    monkeypatch.setattr(CallCosts, "rows_that_pay", lambda costs, most, computes: most)
    pipe = build_tiny_pipe()
    engine = Engine(Painter(pipe, policy_of(pipe, call, WHOLE)), ServerSettings(rows=rows))
    engine.start()
    try:
        assert engine.ready.wait(60)
        yield engine
    finally:
        engine.stop()


def test_who_comes_begins_before_others_end_and_who_leaves_frees_the_place(
    tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, gone, third = ticket(1, steps=6, most=6), ticket(2, steps=6, most=6), ticket(3)
    with serving(tiny_call, monkeypatch, rows=2) as engine:
        steps = 0

        def follow(*given: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == 2:
                engine.submit([gone])
                while len(engine.painter.meeting._ready) < 1:
                    time.sleep(0.001)
            if steps == 3:
                engine.submit([third])
                assert engine.waiting == 1, "both places are taken"
                engine.forget([gone])

        hook = engine.painter._pipe.transformer.register_forward_pre_hook(follow)
        engine.submit([first])
        found = [one.answer.result(60) for one in (first, third)]
        hook.remove()
        painter = engine.painter
        with_nobody = [
            painter.draw(DrawnTicket(one, 1), Target(budget=1.0)) for one in (first, third)
        ]

    assert gone.answer.cancelled()
    ends = [
        one.came + drawn.queue_s + drawn.seconds
        for one, drawn in zip((first, third), found, strict=True)
    ]
    assert third.came + found[1].queue_s < ends[0], "it began while the first was drawn"
    assert all(drawn.compute_share == 1.0 for drawn in found)
    assert with_nobody[0].together == 1.0
    assert not math.isnan(ends[1])


def test_an_image_that_cannot_be_drawn_is_refused_alone(
    tiny_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tiny_call, monkeypatch, rows=3) as engine:
        real = engine.painter._arguments

        def arguments(one: DrawnTicket) -> dict[str, Any]:
            return real(one) | ({"guidance_scale": "much"} if one.ticket.seed == 5 else {})

        monkeypatch.setattr(engine.painter, "_arguments", arguments)
        tickets = [ticket(seed) for seed in (4, 5, 6)]
        engine.submit(tickets)
        answers = [one.answer.exception(60) for one in tickets]

    assert isinstance(answers[1], Refused)
    assert answers[1].code == "failed"
    assert answers[::2] == [None, None]
