"""Pipelines, their copies and sessions, and a model of what each must draw."""

from __future__ import annotations

import contextvars
import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ditcache_rl as dc
from benchmarks.misuse.subjects import (
    PLAIN,
    WAYS,
    Ask,
    Question,
    Truths,
    denoiser_in,
    options_of,
    pristine,
)
from ditcache_rl.instrument.taps import taps_of

WRONG, LEFT, BARE = "wrong_image_count", "left_behind_count", "bare_error_count"


class Finding(Exception):
    """Something that must not be; `args` are the figure it counts in, and a sentence."""


@dataclass(eq=False, slots=True)
class Changed:
    """What has been done to something that pipelines share: a model, or a scheduler."""

    changes: tuple[str, ...] = ()
    scheduler: int = 0


@dataclass(eq=False, slots=True)
class Held:
    """A run, and where it was begun."""

    run: dc.Run
    block: AbstractContextManager[dc.Run] | None
    owner: Subject
    way: str
    context: int


@dataclass(eq=False, slots=True)
class Subject:
    """A pipeline with what is known of it."""

    pipe: Any
    model: Changed
    clock: Changed
    held: list[Held] = field(default_factory=list)


class Playground:
    """All that a sequence works on.

    Args:
        kind: Of `KINDS`.
        truths: What is drawn where nothing happens.
    """

    def __init__(self, kind: str, truths: Truths) -> None:
        self.kind, self._truths = kind, truths
        #: Two tasks, as far as whoever attaches can tell.
        self.contexts = [contextvars.Context(), contextvars.Context()]
        pipe = copy.deepcopy(pristine(kind))
        self.subjects = [Subject(pipe, Changed(), Changed())]
        self.runs: list[Held] = []

    def begin(self, subject: Subject, way: str, context: int, *, block: bool) -> None:
        """Attach, for a block or until it is detached."""
        controller, options = WAYS[way].make(), options_of(self.kind, way)
        entered = None
        if block:
            entered = dc.cached(subject.pipe, controller, **options)
            run = self.contexts[context].run(entered.__enter__)
        else:
            run = self.contexts[context].run(dc.attach, subject.pipe, controller, **options)
        held = Held(run, entered, subject, way, context)
        subject.held.append(held)
        self.runs.append(held)

    def end(self, held: Held, context: int) -> None:
        """Detach."""
        if held.block is None:
            self.contexts[context].run(held.run.detach)
        else:
            self.contexts[context].run(held.block.__exit__, None, None, None)
        self.runs.remove(held)
        for subject in self.subjects:
            if held in subject.held:
                subject.held.remove(held)

    def serving(self, subject: Subject, context: int) -> list[Held]:
        """List what may serve a call from a context, the one that does last."""
        mine = [one for one in subject.held if one.context == context]
        others = [
            one
            for one in subject.held
            if one.context != context and (one.block is None or one.owner is not subject)
        ]
        return others + mine

    def expect(
        self,
        image: Tensor,
        subject: Subject,
        ask: Ask,
        context: int,
        event: tuple[str, int] | None = None,
    ) -> None:
        """Compare an image with the truth.

        A run that has lost its effect may draw the plain image if it says so.
        """
        serving = self.serving(subject, context)
        way = serving[-1].way if serving else PLAIN
        asked = Question(self.kind, subject.model.changes, subject.clock.scheduler, ask, way, event)
        if torch.equal(image, self._truths.image(asked)):
            return
        plain = self._truths.image(asked._replace(way=PLAIN))
        is_plain = torch.equal(image, plain)
        if is_plain and "note  " in serving[-1].run.summary():
            return
        raise Finding(
            WRONG,
            f"expected that under {way}, received {'the plain one' if is_plain else 'another'}",
        )

    def check_caches(self) -> None:
        """Find bytes that requests have left."""
        for held in self.runs:
            if held.run.cache.used_bytes:
                raise Finding(LEFT, f"{held.run.cache.used_bytes} bytes in a cache")

    def check_nothing_left(self) -> None:
        """Find what is left of us when everything has been detached."""
        kind = type(pristine(self.kind))
        for number, subject in enumerate(self.subjects):
            pipe = subject.pipe
            if type(pipe) is not kind:
                raise Finding(LEFT, f"the class {type(pipe)} on pipeline {number}")
            ours = [name for name in vars(pipe) if "ditcache" in name]
            if ours:
                raise Finding(LEFT, f"{ours} on pipeline {number}")
            plain = dict(
                denoiser_in(self._truths.pipe(self.kind, subject.model.changes)).named_modules()
            )
            for name, module in denoiser_in(pipe).named_modules():
                if taps_of(module) or set(vars(module)) != set(vars(plain[name])):
                    more = set(vars(module)) ^ set(vars(plain[name]))
                    raise Finding(LEFT, f"{more or 'a tap'} on {name} of pipeline {number}")
