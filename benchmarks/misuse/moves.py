"""What can be done to a world: each move takes four numbers, and has a meaning in any state."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

import ditcache_rl as dc
from benchmarks.misuse.subjects import (
    CHANGES,
    COMPILE,
    STEPS,
    Ask,
    at,
    denoiser_in,
    draw,
    interrupt,
    scheduler_of,
    ways_of,
)
from benchmarks.misuse.world import BARE, Changed, Finding, Playground, Subject

_MOST_SUBJECTS, _MOST_RUNS = 4, 4


class Abandoned(Exception):
    """Comes from a callback or a block."""


class Move(NamedTuple):
    """Something to do, with four numbers from 0 to 59 that say to what, where and when."""

    name: str
    a: int
    b: int
    c: int
    d: int

    def __call__(self, world: Playground) -> None:
        """Do it."""
        MOVES[self.name].do(world, self)


def _subject(world: Playground, number: int) -> Subject:
    return world.subjects[number % len(world.subjects)]


def _ask(number: int) -> Ask:
    return Ask(number % 2, number // 2 % 3 == 0, STEPS[number // 6 % len(STEPS)])


def _attach(world: Playground, move: Move) -> None:
    if len(world.runs) < _MOST_RUNS:
        ways = ways_of(world.kind)
        way = ways[move.b % len(ways)]
        world.begin(_subject(world, move.a), way, move.c % 2, block=bool(move.d % 2))


def _detach(world: Playground, move: Move) -> None:
    if world.runs:
        world.end(world.runs[move.a % len(world.runs)], move.c % 2)


def _copy(world: Playground, move: Move) -> None:
    subject = _subject(world, move.a)
    if len(world.subjects) == _MOST_SUBJECTS:
        return
    if move.b % 3 == 0:
        own = Subject(copy.copy(subject.pipe), subject.model, subject.clock)
    else:
        way: Callable[[Any], Any] = copy.deepcopy if move.b % 3 == 1 else _pickled
        kept = tuple(change for change in subject.model.changes if change != COMPILE)
        own = Subject(way(subject.pipe), Changed(kept), Changed((), subject.clock.scheduler))
    world.subjects.append(own)


def _pickled(pipe: Any) -> Any:
    return pickle.loads(pickle.dumps(pipe))


def _session(world: Playground, move: Move) -> None:
    if len(world.subjects) < _MOST_SUBJECTS:
        _make_session(world, _subject(world, move.a), move.c % 2)


def _make_session(world: Playground, subject: Subject, context: int) -> Subject:
    pipe = world.contexts[context].run(dc.session, subject.pipe)
    clock = Changed((), subject.clock.scheduler)
    own = Subject(pipe, subject.model, clock, world.serving(subject, context))
    world.subjects.append(own)
    return own


def _call(world: Playground, move: Move) -> None:
    subject, ask, context = _subject(world, move.a), _ask(move.b), move.c % 2
    image = world.contexts[context].run(draw, world.kind, subject.pipe, ask)
    world.expect(image, subject, ask, context)


def _nest(world: Playground, move: Move) -> None:
    """Call another pipeline in a callback: one with a scheduler of its own, as they count in it."""
    outer, context = _subject(world, move.a), move.c % 2
    inner = _subject(world, move.a + 1 + move.b % 3)
    if inner.clock is outer.clock:
        return
    ask, other = _ask(move.b), _ask(move.d)
    found: list[Tensor] = []

    def happen(_: Any) -> None:
        found.append(draw(world.kind, inner.pipe, other))

    callback = at(move.d % ask.steps, happen)
    image = world.contexts[context].run(draw, world.kind, outer.pipe, ask, callback)
    world.expect(found[0], inner, other, context)
    world.expect(image, outer, ask, context)


def _look(world: Playground, move: Move) -> None:
    """Call the denoiser itself in a callback, as it was called last."""
    subject, ask, context = _subject(world, move.a), _ask(move.b), move.c % 2
    denoiser, last = denoiser_in(subject.pipe), list[tuple[Any, Any]]()

    def hook(_: Any, args: Any, kwargs: Any) -> None:
        last[:] = [(args, kwargs)]

    def happen(_: Any) -> None:
        args, kwargs = last[0]
        denoiser(*args, **kwargs)

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        callback = at(move.d % ask.steps, happen)
        image = world.contexts[context].run(draw, world.kind, subject.pipe, ask, callback)
    finally:
        handle.remove()
    world.expect(image, subject, ask, context)


def _raise(world: Playground, move: Move) -> None:
    """Raise in a callback."""

    def happen(_: Any) -> None:
        raise Abandoned

    subject, ask = _subject(world, move.a), _ask(move.b)
    _must_raise(world, move, lambda: draw(world.kind, subject.pipe, ask, at(move.d % 3, happen)))


def _break(world: Playground, move: Move) -> None:
    """Raise in the middle of a block, where one computes."""
    subject, ask = _subject(world, move.a), _ask(move.b)
    modules = [
        module
        for name, module in denoiser_in(subject.pipe).named_modules()
        if isinstance(module, nn.Linear) and "lora" not in name  # adapters may be off
    ]

    def hook(*_: Any) -> None:
        raise Abandoned

    handle = modules[len(modules) // 2].register_forward_pre_hook(hook)
    try:
        _must_raise(world, move, lambda: draw(world.kind, subject.pipe, ask))
    finally:
        handle.remove()


def _must_raise(world: Playground, move: Move, run: Callable[[], Tensor]) -> None:
    try:
        world.contexts[move.c % 2].run(run)
    except Abandoned:
        return
    raise Finding(BARE, "an exception of the user's was lost")


def _cancel(world: Playground, move: Move) -> None:
    """Pass over the last steps, as diffusers cancels a call."""
    subject, ask, context = _subject(world, move.a), _ask(move.b), move.c % 2
    step = move.d % ask.steps
    callback = at(step, interrupt)
    image = world.contexts[context].run(draw, world.kind, subject.pipe, ask, callback)
    world.expect(image, subject, ask, context, ("interrupt", step))


def _change(world: Playground, move: Move) -> None:
    subject, change = _subject(world, move.a), list(CHANGES)[move.b % len(CHANGES)]
    CHANGES[change](subject.pipe)
    subject.model.changes += (change,)


def _change_within(world: Playground, move: Move) -> None:
    """Change a model in a callback: what fits into a call that goes on."""
    subject, ask, context = _subject(world, move.a), _ask(move.b), move.c % 2
    change = ("edit", "edit data", "adapter", "adapter at half")[move.d % 4]
    step = move.d // 4 % ask.steps
    callback = at(step, CHANGES[change])
    image = world.contexts[context].run(draw, world.kind, subject.pipe, ask, callback)
    world.expect(image, subject, ask, context, (change, step))
    subject.model.changes += (change,)


def _reschedule(world: Playground, move: Move) -> None:
    subject, number = _subject(world, move.a), move.b % 2
    subject.pipe.scheduler = scheduler_of(world.kind, number)
    subject.clock = Changed((), number)


class Deed(NamedTuple):
    """A move, and how often it comes."""

    do: Callable[[Playground, Move], None]
    weight: int


MOVES = {
    "attach": Deed(_attach, 5),
    "detach": Deed(_detach, 3),
    "copy": Deed(_copy, 2),
    "session": Deed(_session, 2),
    "call": Deed(_call, 6),
    "call within a call": Deed(_nest, 2),
    "denoiser within a call": Deed(_look, 1),
    "exception in a callback": Deed(_raise, 1),
    "exception in a block": Deed(_break, 1),
    "cancel": Deed(_cancel, 1),
    "change": Deed(_change, 2),
    "change within a call": Deed(_change_within, 1),
    "scheduler": Deed(_reschedule, 1),
}
