"""One image that somebody has asked for, and what became of it."""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from ditcache_rl.errors import DitcacheError
from ditcache_rl.inference import Target

_NUMBERS = itertools.count(1)


class Refused(DitcacheError):
    """A request gets no image.

    Attributes:
        status: Of HTTP.
        code: A word for programs.
        retry_after_s: When to try again; None where that changes nothing.
    """

    def __init__(
        self, message: str, *, status: int, code: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class ServedImage(NamedTuple):
    """An image, and what was done for it."""

    png: bytes
    target: str
    """What its row was asked for in the end."""
    modes: str
    """Of every step, by site; see `modes_text`."""
    compute_share: float
    queue_s: float
    seconds: float
    """From then on."""


@dataclass(slots=True, eq=False)
class ImageTicket:
    """An image to be drawn.

    Attributes:
        prompt: Of the image.
        seed: Of its noise.
        steps: Denoising steps.
        size: Width and height in pixels; None for those of the policy.
        least: Site computes that it needs in any case.
        most: Site computes that it wants.
        floor: Of quality, which fixes its computes; None for none.
        deadline: Reading of `time.perf_counter` at which it must be done.
        asks_time: Whether a deadline alone was asked for: then it computes what brings something,
            and not `most` wherever there is time.
        number: Of the ticket.
        came: When it was made.
        answer: Gets the image, or `Refused`.
        gone: Nobody waits for it any more.
    """

    prompt: str
    seed: int
    steps: int
    size: tuple[int, int] | None
    least: int
    most: int
    floor: Target | None
    deadline: float
    asks_time: bool
    number: int = field(default_factory=lambda: next(_NUMBERS))
    came: float = field(default_factory=time.perf_counter)
    answer: Future[ServedImage] = field(default_factory=Future)
    gone: bool = False

    def goes_with(self, other: ImageTicket) -> bool:
        """Tell whether both can be computed together."""
        return self.size == other.size

    def give(self, image: ServedImage) -> None:
        """Answer; whoever waits may go away, and cancel the answer, at any moment."""
        with suppress(InvalidStateError):
            self.answer.set_result(image)

    def refuse(self, refused: Exception) -> None:
        """Answer that there will be no image; what was answered already stays."""
        with suppress(InvalidStateError):
            self.answer.set_exception(refused)


@dataclass(slots=True, eq=False)
class DrawnTicket:
    """A ticket that is drawn.

    Attributes:
        ticket: Is drawn.
        computes: Site computes that it was granted.
        forwards: Modules that were computed for it so far.
        rounded: Whether its image is one of 8 bits, as whoever asks for it gets, or a tensor.
    """

    ticket: ImageTicket
    computes: int
    forwards: int = 0
    rounded: bool = True

    def left(self, forwards: float) -> int:
        """Return the site computes to come, of so many forwards each."""
        return max(0, math.ceil(self.computes - self.forwards / forwards))


def stopping() -> Refused:
    """Say that the server goes away."""
    return Refused(
        "the server is being stopped; ask another one", status=503, code="stopping", retry_after_s=5
    )


def not_ready() -> Refused:
    """Say that it is too early."""
    return Refused(
        "expected a server that is ready, which /ready tells; it measures what images take",
        status=503,
        code="not_ready",
        retry_after_s=1.0,
    )


def missed(waited_s: float) -> Refused:
    """Say that it is too late."""
    return Refused(
        f"the deadline passed after {waited_s:.2f} s in the queue",
        status=504,
        code="deadline_missed",
    )


def dead() -> Refused:
    """Say that nothing will be drawn any more."""
    return Refused("the engine has ended; see the log", status=503, code="dead")


def failed(error: Exception) -> Refused:
    """Say that an image could not be drawn, and no more of the server than that."""
    return Refused(
        f"the pipeline failed: {type(error).__name__}; the server's log says more",
        status=500,
        code="failed",
    )
